"""Take out channels that nothing reads, or that were chosen, with all that goes with them.

W2 relu(norm(W1 x))   ->   W2[:, kept] relu(norm'(W1[kept] x))      exact where W2[:, gone] is 0
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import fx

from fxprune.choosing.channel_amounts import Amount, Scope
from fxprune.choosing.channel_choice import by_indices, kept_classes, require_left
from fxprune.choosing.channel_ranking import Field
from fxprune.choosing.channel_scores import Normalize, site_scores
from fxprune.choosing.channel_targets import Gone, Left, choose, overshoot, why_nothing
from fxprune.choosing.criteria.base import Aggregate, Criterion
from fxprune.choosing.keeping import KEPT, require_matches
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import Groups, Statistics, sites_of
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import require_latency
from fxprune.costs.activation_memory import activation_bytes
from fxprune.costs.latency.latency_table import HasTable, LatencyTable, table_of
from fxprune.costs.macs import warn_of_unknown_macs
from fxprune.errors import FxpruneValueError, require_share
from fxprune.facts.shapes import renew_shapes
from fxprune.ir.copies import copy_graphs
from fxprune.ir.nodes import remove_unused_state
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.cutting.cut import Cut
from fxprune.rewriting.cutting.sizes import Fault
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.channels.reading import unread
from fxprune.structures.gated_layers import layers_of_graph

_SHOWN = 8
_SHARES = {"macs": "the MACs", "params": "the parameters", "memory": "the activation memory", "latency": "the time"}
Graphs = Sequence[tuple[str, fx.GraphModule]]
Chooser = Callable[[Sequence[Field], Amount, Left], list[set[int]]]


class Chosen(NamedTuple):
    """The classes that go of one graph, and the cut that takes them out; None if none goes."""

    field: Field
    gone: set[int]
    cut: Cut | None


@dataclass(frozen=True)
class RemoveChannels(KeepingPass):
    """Remove the channels that nothing reads, those worth least for a ratio or for targets, or those that are named.

    Without options those go whose gate is 0, or whose columns are zero wherever they are read: outputs stay.

    Args:
        ratio: the share of each group that goes, above 0 and below 1; those that are worth least. In Python also one
            share a stage, by patterns over the paths of layers (see :mod:`fxprune.choosing.keeping`): a group is of
            the first that matches a layer which makes its channels; groups that none matches stay.
        target_macs, target_params, target_memory, target_latency: the shares of :class:`fxprune.Targets` to leave: as
            few channels go as meet all that are given.
        target_ms: its milliseconds, likewise.
        latency: what says how long ops take, for a target in time: a :class:`fxprune.LatencyModel`. Groups then lose
            channels in steps that save time.
        scope: "uniform": one ratio everywhere. "global": the channels of all groups are ranked together, for targets
            by their scores over what each saves of these.
        criterion: what a channel is worth, by name, or as a :class:`fxprune.choosing.criteria.base.Criterion`: "l1",
            say, the L1 norm of its rows in all weights that make it (after Li et al., arXiv 1608.08710).
        aggregate: the "sum" of what a criterion says of all weights that make a channel, or their "mean".
        normalize: how scores of different groups are made comparable: "none", over their "mean", their "max", or
            "lamp" (see :mod:`fxprune.choosing.channel_scores`); by default "lamp" where scope is "global": the last
            channels of a group count most, so that none is emptied.
        data: for criteria that look at more than weights: an iterable of inputs, or of pairs of these and labels; by
            default the graph's example inputs.
        multiple_of: as many channels of each group are left as are a multiple of this; too narrow groups stay.
        least: how many channels of each group are left at least, a number, or a share below 1; never less than 2.
        seed: of "random".
        indices: the output channels that go, by the paths of layers: {"layer1.0.conv1": [0, 3]}. What goes together
            with them goes too, whatever ``least`` and ``multiple_of`` say.
        threshold: what is gated goes where its scales are at most this: at 0 what training has closed.
        groups: of grouped convs, of norms and of heads go the same channels "within" each, or "whole" ones.
        statistics: "approximate" lets layer and group norms lose channels, whose statistics are of the others then.
        keep, only: layers whose output channels stay (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneValueError: a layer or a channel that there is not, or nothing would be left of an axis.
        TargetError: a target cannot be met; says what can.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; a target counts the others.
    """

    name: ClassVar[str] = "remove-channels"
    after: ClassVar[tuple[str, ...]] = ("insert-channel-gate", "split-attention")
    changes_shapes: ClassVar[bool] = True
    ratio: float | Mapping[str, float] | None = field(default=None, hash=False)
    criterion: str | Criterion = "l1"
    seed: int = 0
    indices: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)
    groups: Groups = "within"
    statistics: Statistics = "exact"
    threshold: float = 0.0
    target_macs: float | None = None
    target_params: float | None = None
    target_memory: float | None = None
    scope: Scope = "uniform"
    multiple_of: int = 1
    least: float = LEAST
    aggregate: Aggregate = "sum"
    normalize: Normalize | None = None
    data: Any = field(default=None, hash=False, compare=False, repr=False)
    target_ms: float | None = None
    target_latency: float | None = None
    latency: LatencyTable | HasTable | None = field(default=None, hash=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, of in _SHARES.items():
            require_share(f"target_{name}", of, getattr(self, f"target_{name}"))
        if self.amount.is_empty and self.scope != "uniform":
            raise FxpruneValueError(f"scope={self.scope!r} needs a ratio or a target")
        made(self.criterion, known_criteria(), "criterion")
        if not 0 <= self.threshold < 1:
            raise FxpruneValueError(f"threshold is a scale of at least 0 and below 1; got {self.threshold}")

    @property
    def amount(self) -> Amount:
        """How many channels go."""
        targets = Targets.of_options(vars(self))
        return Amount(self.ratio, targets, self.scope, self.multiple_of, self.least)

    @property
    def contract(self) -> Contract:  # type: ignore[override]  # depends on the options
        """Equal values where only what nobody reads goes, an equal signature otherwise."""
        chooses = not self.amount.is_empty or bool(self.indices) or self.threshold > 0
        return Contract.SIGNATURE if chooses or self.statistics == "approximate" else Contract.VALUES

    def rewrite_all(self, graphs: Graphs, log: Log) -> None:
        """Take the chosen channels out: those of all graphs are chosen together."""
        chosen = self.chosen(graphs, log)
        if not any(one.gone for one in chosen):
            log.warn(why_nothing([one.field for one in chosen], self.amount))
        for one, gone, cut in chosen:
            log.region = one.region
            if cut is not None:
                which = self._which(one.channels, gone, one.silent)
                for node, told in cut.apply().items():
                    log.rewrote(node, told + which.get(str(node.target), ""))
                _tell(gone, one.silent, log)
        log.region = ""

    def chosen(self, graphs: Graphs, log: Log, chooser: Chooser = choose) -> list[Chosen]:
        """Return what goes of each of ``graphs``, with the cuts that :meth:`rewrite_all` makes; none is edited."""
        self.kept.require_sense(graphs)
        latency = table_of(self.latency)
        require_latency(self.amount.targets, latency, self.name)
        if isinstance(self.ratio, Mapping):
            require_matches({"ratio": self.ratio}, graphs)
        if self.target_macs is not None:
            warn_of_unknown_macs(graphs[0][1], stacklevel=4)
        fields = self._fields(graphs, log)
        named = self._named(fields, log)
        peak = partial(self._peak, graphs, fields)
        left = Left(graphs[0][1], fields, self.amount.targets, peak, latency)
        while True:
            try:
                gone = map(self._with_named, fields, chooser(fields, self.amount, left), named)
                found = [Chosen(one, each, _cut(one, each)) for one, each in zip(fields, gone, strict=True)]
            except Fault as fault:
                _bar(fields, fault, log)
                continue
            told = None
            if self.multiple_of > 1 or left.without:
                told = overshoot(self.amount, left, [one.gone for one in found])
            log.warnings += [told] if told else []
            return found

    def silent(self, channels: Channels) -> set[int]:
        """Return the classes that go whatever else is asked for: those that nothing reads."""
        return unread(channels, self.threshold)

    def _channels(self, graph_module: fx.GraphModule) -> Channels:
        return Channels(graph_module, whole=self.groups == "whole", approximate=self.statistics == "approximate")

    def _fields(self, graphs: Graphs, log: Log) -> list[Field]:
        """Return the channels of each graph, with what each is worth."""
        found = []
        for log.region, graph in graphs:
            channels = self._channels(graph)
            if not all(gate.module.resting for gate in layers_of_graph(graph)):
                log.warn(
                    "the channels of layers with an open gate stay: remove and fuse these first "
                    "(fxprune.AFTER_TRAINING)"
                )
            kept, held = kept_classes(channels, self.kept, log.region)
            for node in held:
                log.decline(node, KEPT)
            found.append(Field(log.region, channels, self.silent(channels) - kept))
            found[-1].bar(kept)
        if not self.amount.is_empty:
            self._score(graphs[0][1], found, log)
        return found

    def _score(self, graph_module: fx.GraphModule, fields: Sequence[Field], log: Log) -> None:
        """Tell ``fields`` what each of their channels is worth."""
        samples = Samples.of(graph_module, self.data)
        criterion = made(self.criterion, known_criteria(), "criterion")
        if samples.advice and criterion.needs != "weights":
            log.warn(f"channels were compared on {samples.advice}")
        sites = [(one, site) for one in fields for site in sites_of(one.channels, one.region)]
        fitted = criterion.fitted(graph_module, self)
        scores = site_scores(
            graph_module,
            [site for _, site in sites],
            self.criterion if fitted is criterion else fitted,
            samples,
            normalize=self.normalize or ("lamp" if self.scope == "global" and not criterion.is_marginal else "none"),
            aggregate=self.aggregate,
            seed=self.seed,
        )
        for (one, site), worth in zip(sites, scores, strict=True):
            one.score(site.group, worth)

    def _named(self, fields: Sequence[Field], log: Log) -> list[set[int]]:
        """Return the classes that are named and can go, by graph."""
        found: list[set[int]] = []
        asked = by_indices([(one.region, one.channels) for one in fields], self.indices)
        for one, classes in zip(fields, asked, strict=True):
            found.append({each for each in classes if not one.stays[each]})
            for each in classes.keys() - found[-1]:
                path, place = classes[each]
                log.warn(f"channel {place} of {path} stays: {one.channels.reasons.get(each, KEPT)}")
            require_left(one.channels, found[-1])
        return found

    def _with_named(self, one: Field, gone: set[int], named: set[int]) -> set[int]:
        """Return ``gone`` and what is ``named``, which is spared last."""
        named = {each for each in named if not one.stays[each]}
        worth = one.worth.copy()
        worth[list(named)] = -np.inf
        return one.channels.spared(gone | named, worth) if named else gone

    def _peak(self, graphs: Graphs, fields: Sequence[Field], gone: Gone) -> float:
        """Return the most bytes that activations take at a time in what would be emitted without ``gone``."""
        for one, classes in zip(fields, gone, strict=True):
            _cut(one, classes)  # of these graphs, so that a fault names a node of theirs
        plain = self._without(graphs[0][1], gone)
        for step in AFTER_TRAINING:
            plain = step(plain).graph_module
        return max(activation_bytes(plain).values(), default=0)

    def _without(self, graph_module: fx.GraphModule, gone: Gone) -> fx.GraphModule:
        copies = copy_graphs(graph_module)
        for (_, copy), classes in zip(copies, gone, strict=True):
            if classes:
                Cut(self._channels(copy).walk, classes).apply()
                remove_unused_state(copy)
                copy.recompile()
        renew_shapes(copies[0][1])
        return copies[0][1]

    def _which(self, channels: Channels, gone: Collection[int], silent: Collection[int]) -> dict[str, str]:
        """Return which output channels of each layer go, and why, by its path."""
        found = {}
        criterion = made(self.criterion, known_criteria(), "criterion").name
        chosen = "named" if self.indices else f"worth least by {criterion}"
        quiet = f"whose scales are at most {self.threshold:g}" if self.threshold else "which nobody reads"
        reasons = [(set(gone) & set(silent), quiet), (set(gone) - set(silent), chosen)]
        flags = [(channels.flagged(classes), why) for classes, why in reasons]
        for path, classes in channels.outputs.items():
            parts = []
            for goes, why in flags:
                places = np.flatnonzero(goes[classes]).tolist()
                more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
                parts += [f"{', '.join(map(str, places[:_SHOWN]))}{more}, {why}"] if places else []
            if parts:
                found[path] = f"; without {'; '.join(parts)}"
        return found


def _cut(one: Field, gone: Collection[int]) -> Cut | None:
    return Cut(one.channels.walk, gone) if gone else None


def _bar(fields: Sequence[Field], fault: Fault, log: Log) -> None:
    """Have the channels that cannot be cut stay: those at the fault, or else all of its graph."""
    one = next(one for one in fields if one.channels.graph_module.graph is fault.node.graph)
    log.region = one.region
    log.decline(fault.node, fault.why)
    at = np.fromiter(one.channels.classes_at(fault.node), dtype=np.int64)
    one.bar(range(len(one.stays)) if one.stays[at].all() else at.tolist())


def _tell(gone: Collection[int], silent: Collection[int], log: Log) -> None:
    """Warn of what was cut though something read it."""
    others = len(set(gone) - set(silent))
    if others:
        log.warn(
            f"{others:,} channels were cut that were not zero: outputs change; train on, or measure the norms anew"
        )
