"""From single removals to targets: what goes for each, and what that costs if what is missed adds up.

    missed of n channels of a group     between the shares that were measured, on straight lines
    score of the n-th channel           how steep the line below all of these is there (their lower convex hull)
    score of a conv or a branch         what it is missed

By these scores :func:`fxprune.choose` chooses, the least missed for what it saves first, as by any criterion; so the
last channels of a group count more, and what excludes one another is not chosen together. Of each group as many
channels stay as stayed of the largest share that was measured.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import fx

from fxprune.choosing.convex_slopes import convex_slopes
from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneWarning, TargetError
from fxprune.pruning.choose import choose
from fxprune.pruning.layer_sites import name_of, names_of_layers
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.sensitivity.single_removals import SingleRemoval
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth

Missed = Sequence[tuple[SingleRemoval, float]]
"""Single removals, each with how much it is missed."""
_STEP = 1e-6  # so much more, relatively, each next channel on a line scores: they go in order


@dataclass(frozen=True)
class Chosen:
    """What goes for a target of MACs, and what is ``foretold`` to be missed: the sum; or ``why`` it cannot be met."""

    target: float
    plan: PruningPlan | None
    foretold: float | None
    why: str = ""


class Curve:
    """Chooses by what was measured.

    Args:
        graph_module: the traced graph.
        channels: those of it.
        missed: what was measured.
    """

    def __init__(self, graph_module: fx.GraphModule, channels: Channels, missed: Missed) -> None:
        self._graph_module = graph_module
        self._channels = channels
        self._layers = {(one.kind, one.path): value for one, value in missed if one.kind != "channels"}
        self._lines: dict[int, _Line] = {}
        self._line_of: dict[int, int] = {}  # the first class of its group, by class
        shares: defaultdict[tuple[int, ...], list[tuple[int, float]]] = defaultdict(list)
        for one, value in missed:
            if one.kind == "channels":
                shares[one.order].append((one.goes, value))
        for order, points in shares.items():
            self._lines[order[0]] = _Line(order, points)
            self._line_of |= dict.fromkeys(order, order[0])

    def at(self, target: float, what: Sequence[str], **options: Any) -> Chosen:
        """Return what goes for a share of the MACs; ``options`` are those of :func:`fxprune.choose`.

        What that warns of is left out: by how much more goes than was asked for the figures tell.
        """
        options |= {"criterion": _Measured(self), "scope": "global", "normalize": "none"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FxpruneWarning)
            try:
                plan = choose(self._graph_module, what, Targets(macs=target), **options)
            except TargetError as error:
                return Chosen(target, None, None, str(error))
        return Chosen(target, plan, self.foretold(plan))

    def foretold(self, plan: PruningPlan) -> float:
        """Return the sum of what all that goes is missed alone."""
        found = sum(self._layers[one.kind, one.path] for one in plan.sites if one.kind != "channels")
        counts: Counter[int] = Counter()
        outputs = self._channels.outputs
        gone = {int(outputs[path][place]) for path, places in plan.indices.items() for place in places}
        counts.update(self._line_of[one] for one in gone if one in self._line_of)
        return found + sum(self._lines[first].at(count) for first, count in counts.items())

    def scores(self, names: Mapping[tuple[str, str, str], str]) -> Score:
        """Return what says of a site how much it is missed; infinite is what was not measured."""
        worth = np.full(len(self._channels.labels), np.inf)
        for line in self._lines.values():
            worth[list(line.order)] = line.scores()

        def score(site: Any) -> Any:
            if isinstance(site, ChannelSite):
                return worth[site.group.free] if not site.region else np.full(site.width, np.inf)
            return self._layers.get((site.kind, name_of(site, names)), np.inf)

        return score

    def names(self) -> Mapping[tuple[str, str, str], str]:
        """Return what plans call the layers of the graph."""
        return names_of_layers(self._graph_module)


class _Line:
    """How much so many channels of a group are missed, which go in ``order``."""

    def __init__(self, order: Sequence[int], points: Sequence[tuple[int, float]]) -> None:
        self.order = order
        counts, values = zip((0, 0.0), *sorted(points), strict=True)
        self._counts = np.array(counts)
        self._values = np.maximum.accumulate(np.array(values))  # less may not be missed more

    def at(self, count: int) -> float:
        """Return how much the first ``count`` are missed."""
        return float(np.interp(count, self._counts, self._values))

    def scores(self) -> Worth:
        """Return a score for each, in order: ascending, and infinite beyond what was measured."""
        found = np.full(len(self.order), np.inf)
        slopes = convex_slopes(self._counts.tolist(), self._values.tolist())
        place = np.arange(len(slopes))
        found[: len(slopes)] = slopes * (1 + _STEP * place) + 1e-12 * place
        return found


@dataclass(frozen=True, eq=False)
class _Measured(Criterion):
    """What single removals were measured to change."""

    curve: Curve
    name: ClassVar[str] = "sensitivity"
    needs: ClassVar[Needs] = "weights"

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what looks a site up."""
        yield self.curve.scores(self.curve.names())
