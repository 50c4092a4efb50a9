"""How far a graph without some of its layers and channels is from a target of MACs, parameters or time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.choosing.budget import SumBudget
from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import milliseconds_asked, require_milliseconds
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import TargetError
from fxprune.ir.nodes import TRACED_MACS
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.gated_layers import count_for_target, layers


class MacsBudget(SumBudget):
    """The share to leave of the MACs of one sample that were traced, with MACs that have to go in any case."""

    unit = 1.0

    def __init__(
        self, graph_module: fx.GraphModule, share: float, least: int = 0, remaining: Remaining | None = None
    ) -> None:
        self._remaining = remaining or Remaining(graph_module)
        if not self._remaining.channels:
            count_for_target(graph_module, layers(graph_module), share)  # raises
        self._total = total_macs(graph_module)
        traced = graph_module.meta.get(TRACED_MACS, self._total)
        self._most: float = share * traced
        self._to_save: float = max(self._total - self._most, least)
        if self._remaining.channels:
            _require("target_macs", share, self.left(self._remaining.all_but(LEAST)) / max(traced, 1), "MACs")

    def left(self, removed: Sequence[Site]) -> float:
        """Return the MACs of the graph without these sites."""
        return self._remaining.left(removed).macs

    def excess(self, removed: Sequence[Site]) -> float:
        """Return the MACs that are above the target, or have to go."""
        return self._to_save - (self._total - self.left(removed))

    def is_met(self, removed: Sequence[Site]) -> bool:
        """Say whether the target is met, whatever else has to go."""
        return self.left(removed) <= self._most + 1e-6

    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return the MACs that go with each."""
        return {path: cost.macs for path, cost in self._remaining.saved(candidates, removed).items()}


class ParamsBudget(SumBudget):
    """The share to leave of the parameters that a graph holds, those of scales left out."""

    def __init__(self, graph_module: fx.GraphModule, share: float, remaining: Remaining | None = None) -> None:
        self._remaining = remaining or Remaining(graph_module)
        self._total = total_params(graph_module)
        self._most = share * self._total
        least = self.left(self._remaining.all_but(LEAST)) / max(self._total, 1)
        count = None if self._remaining.channels else len(self._remaining.layers)
        _require("target_params", share, least, "parameters", count)

    def left(self, removed: Sequence[Site]) -> float:
        """Return the parameters of the graph without these sites."""
        return self._remaining.left(removed).params

    def excess(self, removed: Sequence[Site]) -> float:
        """Return the parameters that are above the target."""
        return self.left(removed) - self._most

    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return the parameters that go with each."""
        return {path: cost.params for path, cost in self._remaining.saved(candidates, removed).items()}


class LatencyBudget(SumBudget):
    """The milliseconds that a forward pass of the network that is emitted may take, as a model of them predicts.

    A target in shares is of what the graph takes with all that can go of it.

    Attributes:
        limit: the milliseconds.
    """

    unit = 1e-9

    def __init__(self, targets: Targets, remaining: Remaining) -> None:
        self._remaining, self._targets = remaining, targets
        self.limit = milliseconds_asked(targets, self.left(()))

    def require_possible(self) -> None:
        """Raise TargetError if it takes longer without all that can go, as predicted now; says how long."""
        least = self.left(self._remaining.all_but(LEAST))
        require_milliseconds(self._targets, self.limit, least, "all that can go")

    def left(self, removed: Sequence[Site]) -> float:
        """Return the milliseconds of the network without these sites."""
        return self._remaining.milliseconds(removed)

    def excess(self, removed: Sequence[Site]) -> float:
        """Return the milliseconds that are above the target."""
        return self.left(removed) - self.limit

    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return the milliseconds that go with each."""
        return {path: cost.milliseconds for path, cost in self._remaining.saved(candidates, removed).items()}


def _require(name: str, share: float, least: float, of: str, count: int | None = None) -> None:
    """Raise TargetError if more than ``share`` is left where all has gone that can."""
    if least > share:
        what = "all that can go" if count is None else f"all {count} removable layers"
        raise TargetError(
            f"{name}={share:g} cannot be met: without {what} {least:.3f} of the {of} are left; ask for at least "
            f"{least + 5e-4:.3f}"
        )
