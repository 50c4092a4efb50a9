"""Widths by gates of attention: which channels stay by one rule for all layers (Chang et al., arXiv 2010.01251).

    keep channel c of a layer where I_c > alpha mean(I)        I_c: its mean gate over images

[paper] alpha, about 0.9 to 1.1, is the same in all layers. Ours: it is found by bisection, the lowest that meets a
target. Only the widths count: a network of them is trained from scratch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import Field
from fxprune.choosing.channel_targets import Left, lowest
from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.criteria.channel_attention import ChannelAttentionShare, Gates
from fxprune.choosing.fingerprint import fingerprint
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.targets import Targets
from fxprune.costs.latency.latency_table import table_of
from fxprune.errors import FxpruneValueError, TargetError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graphs
from fxprune.ir.nodes import require_graph
from fxprune.passes import RemoveChannels
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.timed_choice import Timed, timed_choice
from fxprune.rewriting.contract import Log
from fxprune.structures.channels.labels import Array
from fxprune.structures.judged_convs import JudgedConv, judged_convs

Width = tuple[int, int]
_ALL = Targets(macs=1.0)
_NOTHING = Targets()


@dataclass(frozen=True)
class Widths:
    """What was chosen.

    Attributes:
        plan: which channels go; only how many matters.
        alpha: the share of a layer's mean gate above which its channels stay.
        widths: how many channels each judged conv has and keeps, by its path.
        timed: for a target in time what was predicted and measured; None for others.
    """

    plan: PruningPlan
    alpha: float
    widths: Mapping[str, Width]
    timed: Timed | None = None


def choose_widths(
    graph_module: fx.GraphModule,
    gates: Gates,
    targets: Targets = _NOTHING,
    *,
    alpha: float | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    latency: LatencyModel | None = None,
) -> Widths:
    """Return which widths gates of attention leave of a network.

    Args:
        graph_module: what :func:`fxprune.trace` returned, without gates; it is never changed.
        gates: what :func:`fxprune.pruning.ucp.attention.measure_attention` returned; lists of numbers will do.
        targets: the shares of costs to leave, or a time, which is measured as in
            :mod:`fxprune.pruning.timed_choice`.
        alpha: in the place of targets; above 0.
        keep, only: patterns over the paths of layers whose channels stay.
        latency: what predicts and measures times, for a target of these; measured of this network by default.

    Raises:
        FxpruneValueError: there are neither targets nor alpha, or both; or alpha is out of range, or keeps no channel
            of a layer: says what would keep one.
        TargetError: the targets cannot be met by widths; says what can.

    Warns:
        FxpruneWarning: what the user should know of the network: that a target counts known MACs alone, say.
    """
    require_arguments(choose_widths, locals())
    graph_module = require_graph(graph_module, "choose_widths")
    require_one(targets, alpha)
    criterion = ChannelAttentionShare(gates)
    kept: dict[str, Any] = {"keep": keep, "only": only}
    if not targets.is_timed:
        return chosen_by(criterion, graph_module, targets, alpha, **kept)
    found: list[Widths] = []

    def choose(wanted: Targets, times: LatencyModel) -> PruningPlan:
        found.append(chosen_by(criterion, graph_module, wanted, latency=times, **kept))
        return found[-1].plan

    plan, timed = timed_choice(graph_module, targets, latency or LatencyModel.measure(graph_module), choose)
    best = next(one for one in found if one.plan is plan)
    return Widths(plan, best.alpha, best.widths, timed)


def require_one(targets: Targets, alpha: float | None) -> None:
    """Raise FxpruneValueError unless either targets or a possible alpha are given."""
    if alpha is None and targets.is_empty:
        raise FxpruneValueError("how much is to go? give targets, or alpha")
    if alpha is not None and not targets.is_empty:
        raise FxpruneValueError("alpha and targets exclude one another: a target says which alpha it is")
    if alpha is not None and not 0 < alpha < math.inf:
        raise FxpruneValueError(f"alpha is a share of the mean gate, above 0, about 1; got {alpha}")


def chosen_by(
    criterion: Criterion,
    graph_module: fx.GraphModule,
    targets: Targets,
    alpha: float | None = None,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    latency: LatencyModel | None = None,
) -> Widths:
    """Return the widths that are left where every channel goes whose score is at most alpha, one for all layers.

    Args:
        criterion: scores channels; those of different layers compare as they are, infinite ones stay.
        graph_module, targets, alpha, keep, only: as for :func:`choose_widths`, which says what is raised.
        latency: what predicts times.
    """
    rule = _Rule(alpha)
    wanted = _ALL if targets.is_empty else targets  # channels are scored where there is a target
    options: dict[str, Any] = {**wanted.options(), "keep": keep, "only": only}
    step = RemoveChannels(criterion=criterion, latency=table_of(latency), **options)
    log = Log()
    chosen = step.chosen(copy_graphs(graph_module), log, rule)
    sites: list[PlannedSite] = []
    widths: dict[str, Width] = {}
    for one, gone, _ in chosen:
        sites += planned_channels(one.channels, gone, one.worth, one.region)
        widths |= dict(_widths(one, gone))
    log.show(stacklevel=4)
    return Widths(PruningPlan(sites, fingerprint(graph_module), criterion.name, targets), rule.alpha, widths)


def _widths(one: Field, gone: Collection[int]) -> Iterator[tuple[str, Width]]:
    goes = one.channels.flagged(gone)
    for conv in judged_convs(one.channels):
        if isinstance(conv, JudgedConv):
            path = f"{one.region}.{conv.path}" if one.region else conv.path
            yield path, (conv.width, int((~goes[conv.classes]).sum()))


@dataclass
class _Rule:
    """Chooses by alpha, which is the lowest that meets the targets unless it is given."""

    given: float | None = None
    alpha: float = field(default=0.0, init=False)

    def __call__(self, fields: Sequence[Field], amount: Amount, left: Left) -> list[set[int]]:
        """Return the classes that go, by graph."""
        path, most = _narrowest(fields)
        if self.given is not None:
            if self.given >= most:
                raise FxpruneValueError(
                    f"alpha={self.given:g} keeps no channel of {path}: one below {_down(most)} keeps one"
                )
            self.alpha = self.given
        else:
            levels = [0.0, *(one for one in _levels(fields) if one < most)]
            self._require_enough(fields, left, levels[-1], path)
            self.alpha = lowest(levels, lambda level: not left.unmet(_up_to(fields, level)))
        return _up_to(fields, self.alpha)

    @staticmethod
    def _require_enough(fields: Sequence[Field], left: Left, most: float, path: str) -> None:
        """Raise TargetError if even the largest alpha leaves too much."""
        gone = _up_to(fields, most)
        unmet = left.unmet(gone)
        if unmet:
            count = sum(map(len, gone))
            refusal = left.refusal(unmet, f"{count:,} channels" if count else "")
            beyond = f"the same alpha in all layers goes up to {most:.4g}, beyond which {path} keeps none"
            raise TargetError(
                f"{refusal}; {beyond if path else 'no gate tells channels apart: train for longer'}; another method "
                "takes more: fxprune prune --what channels, or --what all, which takes layers too"
            )


def _free(one: Field) -> Iterator[tuple[str, Array, bool]]:
    """Yield the groups that may lose channels: name, the classes that may go, whether others stay in any case."""
    for group in one.channels.groups:
        free = group.free[~one.stays[group.free]]
        if len(free):
            yield group.name, free, len(free) < group.width


def _narrowest(fields: Sequence[Field]) -> tuple[str, float]:
    """Return the layer that is the first to keep nothing, and the alpha from which on it does; "" if none is."""
    found = [
        (float(one.worth[free].max()), f"{one.region}.{name}" if one.region else name)
        for one in fields
        for name, free, others_stay in _free(one)
        if not (others_stay or np.isposinf(one.worth[free]).any())
    ]
    most, path = min(found, default=(math.inf, ""))
    return path, most


def _levels(fields: Sequence[Field]) -> list[float]:
    """Return the shares of the mean gate at which a channel goes, in order."""
    every = [one.worth[free] for one in fields for _, free, _ in _free(one)]
    return [float(one) for one in np.unique(np.concatenate([np.zeros(0), *every])) if one > 0]


def _up_to(fields: Sequence[Field], alpha: float) -> list[set[int]]:
    """Return the classes that are worth at most ``alpha``, by graph; of every axis two stay."""
    return [
        one.channels.spared(set(np.flatnonzero(~one.stays & _goes(one, alpha)).tolist()), one.worth) for one in fields
    ]


def _goes(one: Field, alpha: float) -> NDArray[np.bool_]:
    """Return which classes that may go are worth at most ``alpha``, by class."""
    found = np.zeros(len(one.worth), dtype=bool)
    for group in one.channels.groups:
        found[group.free] = one.worth[group.free] <= alpha
    return found


def _down(number: float) -> str:
    """Return a number with four digits, rounded down."""
    digits = 3 - math.floor(math.log10(number)) if number > 0 else 0
    return f"{math.floor(number * 10**digits) / 10**digits:g}"
