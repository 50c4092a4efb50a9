"""How much each part of a network is missed against what it saves, before anything is pruned.

found = fxprune.sensitivity(fxprune.trace(model.eval(), images), loader)
print(found)                                  # a table of single removals, and what each target would cost
found.curve[4].plan.save("plan.json")         # what goes for half of the MACs

Each part is taken out alone, by runs from there on (removal_runs), and outputs are compared with those of the whole
network (output_change). A part is measured on as many samples as it takes for a standard error of a tenth of what is
measured, and on at least 64: what breaks the network is known early.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import fx

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.keeping import Kept
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.costs.macs import total_macs, total_params, warn_of_unknown_macs
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError, FxpruneWarning, did_you_mean
from fxprune.ir.arguments import option_kinds, require_arguments, require_kind
from fxprune.ir.nodes import graphs_of, require_graph
from fxprune.pipelines import What, sites_named
from fxprune.pruning.sensitivity.curve import Chosen, Curve
from fxprune.pruning.sensitivity.measuring import LEAST_IMAGES, Measuring
from fxprune.pruning.sensitivity.output_change import Change
from fxprune.pruning.sensitivity.result import Point, Sensitivity, SiteSensitivity, Whole
from fxprune.pruning.sensitivity.single_removals import NotMeasured, Removals, SingleRemoval
from fxprune.structures.channels.groups import Channels

_LOG = logging.getLogger(__name__)
SHARES = (0.25, 0.5, 0.75)
TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
IMAGES = 512


@dataclass(frozen=True)
class Options:
    """What is measured, and on what.

    Args:
        criterion: which channels of a group go first, by name or as a Criterion.
        shares: of each group that go, each above 0 and below 1.
        targets: the shares of the MACs to leave of which the cost is told.
        images: how many samples at most, the first ones of the data.
        labels: True asks for labels, False leaves them aside; by default they are looked at where there are any.
        keep, only: which layers stay (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneError: one is of the wrong kind, or out of range.
    """

    criterion: str | Criterion = "l1"
    shares: Sequence[float] = SHARES
    targets: Sequence[float] = TARGETS
    images: int = IMAGES
    labels: bool | None = None
    keep: Sequence[str] = ()
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Options).items():
            require_kind(getattr(self, name), hint, "sensitivity", name)
        made(self.criterion, known_criteria(), "criterion")
        for name in ("shares", "targets"):
            for share in getattr(self, name):
                if not 0 < share < 1:
                    raise FxpruneValueError(f"{name} of sensitivity are above 0 and below 1; got {share:g}")
        if self.images < 1:
            raise FxpruneValueError(f"images of sensitivity is a number from 1; got {self.images}")


def sensitivity(
    graph_module: fx.GraphModule, data: Iterable[Any] | None = None, what: What = "all", **options: Any
) -> Sensitivity:
    """Measure how much each conv, branch and share of channels is missed alone, and what targets would cost.

    Args:
        graph_module: what :func:`fxprune.trace` returned, in eval mode; it is never changed.
        data: batches of inputs, or of pairs of inputs and labels, as :func:`fxprune.choose` takes them; by default
            the example inputs of the graph. Of a data set that is sorted by class give a shuffled loader.
        what: some of "convs", "branches" and "channels", as "branches,channels" or in a sequence, or "all".
        options: those of :class:`Options`: criterion, shares, targets, images, labels, keep, only.

    Raises:
        FxpruneError: the network is in train mode, does not take the inputs, has outputs that are not finite (names
            the layer), has nothing that may go, or labels are asked for and missing; or an option is none.

    Warns:
        FxpruneWarning: there are few samples.
    """
    require_arguments(sensitivity, locals())
    return Study(graph_module, data, what, **options).measure()


class Study:
    """A measurement that is prepared: what can be wrong is refused, and :attr:`takes` says what it will take.

    The arguments are those of :func:`sensitivity`.
    """

    def __init__(
        self, graph_module: fx.GraphModule, data: Iterable[Any] | None, what: What = "all", **options: Any
    ) -> None:
        self._start = time.monotonic()
        self._graph_module = require_graph(graph_module, "sensitivity")
        self._what = sites_named(what)
        self._options = _options(options)
        if graph_module.training:
            raise FxpruneValueError("sensitivity compares outputs in eval mode; call .eval() on the network first")
        warn_of_unknown_macs(graph_module, stacklevel=3)
        samples = Samples.of(graph_module, data)
        self._channels = Channels(graph_module)
        self._measuring = Measuring(self._channels, samples, self._options.images, self._options.labels)
        self._removals, self._not_measured = self._found(samples)
        self._warn_of_few(samples)
        self.takes = self._measuring.takes([one.run for one in self._removals])

    def _found(self, samples: Samples) -> tuple[list[SingleRemoval], list[NotMeasured]]:
        options = self._options
        all_removals = Removals(self._graph_module, self._what, Kept(options.keep, options.only), self._channels)
        found = list(all_removals.layers())
        if "channels" in self._what:
            found += all_removals.channels(options.criterion, samples, options.shares)
        others = all_removals.not_measured()
        if not found:
            more = f"; {others[0].path}: {others[0].why}" if others else "; fxprune inspect tells why"
            raise FxpruneError(f"the model has no {' or '.join(self._what)} that may go{more}")
        return found, others

    def _warn_of_few(self, samples: Samples) -> None:
        if self._measuring.images < LEAST_IMAGES:
            where = samples.advice or "give more data"
            message = f"{self._measuring.images} samples are few, {LEAST_IMAGES} the least to trust: {where}"
            warnings.warn(message, FxpruneWarning, stacklevel=4)

    def measure(self) -> Sensitivity:
        """Measure all single removals, choose for all targets, cut, and measure what that really comes to."""
        _LOG.info(self.takes)
        whole, changes = self._measuring.of_runs([one.run for one in self._removals])
        known = [(one, changes[one.run]) for one in self._removals if not changes[one.run].why]
        broken = [
            NotMeasured(one.kind, one.path, changes[one.run].why) for one in self._removals if changes[one.run].why
        ]
        return Sensitivity(
            Whole(
                total_macs(self._graph_module),
                total_params(self._graph_module),
                whole.images,
                self._measuring.is_logits,
                whole.right,
            ),
            tuple(SiteSensitivity.of(one, change) for one, change in known),
            (*self._not_measured, *broken),
            tuple(self._curve(known)),
            made(self._options.criterion, known_criteria(), "criterion").name,
            time.monotonic() - self._start,
        )

    def _curve(self, known: Sequence[tuple[SingleRemoval, Change]]) -> list[Point]:
        curve = Curve(self._graph_module, self._channels, [(one, change.missed) for one, change in known])
        regions = [path for path, _ in graphs_of(self._graph_module)[1:]]
        options = {"keep": [*self._options.keep, *regions], "only": self._options.only}
        chosen: list[Chosen] = []
        for target in sorted(self._options.targets, reverse=True):
            _LOG.info("choosing what goes for %.0f%% of the MACs", 100 * target)
            chosen.append(curve.at(target, self._what, **options))
        cut = [
            one.plan.apply(self._graph_module, verify=False).graph_module for one in chosen if one.plan is not None
        ]
        totals = float(total_macs(self._graph_module)), float(total_params(self._graph_module))
        changes = iter(zip(cut, self._measuring.of_networks(cut), strict=True))
        return [
            Point(one.target, one.why) if one.plan is None else Point.of(one, *next(changes), totals)
            for one in chosen
        ]


def _options(given: dict[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            raise FxpruneTypeError(
                f"sensitivity has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            )
    return Options(**given)
