"""What a graph has beyond all of its targets together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.choosing.budget import Budget, SumBudget
from fxprune.choosing.budgets import LatencyBudget, MacsBudget, ParamsBudget
from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_asked import require_latency
from fxprune.costs.macs import warn_of_unknown_macs
from fxprune.pruning.memory_budget import MemoryBudget


class Surplus:
    """What a graph has beyond all of its targets: a budget for each.

    Args:
        graph_module: a graph with gates.
        targets: the shares to leave.
        remaining: what the graph costs without some of its sites, where somebody asked already; with a model of
            times, where these have a target.
        training: it trains already, and goes on whether or not a time can be met.

    Attributes:
        sums: the budgets of costs that add up: of MACs, and of parameters and time if they have a target.
        params: that of parameters, if they have one.
        time: that of time, likewise.
        memory: that of the memory, likewise: of a peak, which sites lower together or not at all.

    Raises:
        TargetError: a target cannot be met without all sites; says what can.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; a target counts the others.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        targets: Targets,
        remaining: Remaining | None = None,
        *,
        training: bool = False,
    ) -> None:
        if targets.macs is not None:
            warn_of_unknown_macs(graph_module, stacklevel=3)
        remaining = remaining or Remaining(graph_module)
        require_latency(targets, remaining.latency, "Surplus")
        self.memory: Budget | None = None
        least = 0
        if targets.memory is not None:
            self.memory = MemoryBudget(graph_module, targets.memory, remaining)
            least = self.memory.macs_to_meet_it()
        self.sums: list[SumBudget] = [MacsBudget(graph_module, targets.macs or 1.0, least, remaining)]
        self.params = None if targets.params is None else ParamsBudget(graph_module, targets.params, remaining)
        self.time = LatencyBudget(targets, remaining) if targets.is_timed else None
        if self.time is not None and not training:
            self.time.require_possible()
        self.sums += [one for one in (self.params, self.time) if one is not None]

    def is_met(self, removed: Sequence[Site]) -> bool:
        """Say whether the graph without these sites meets all targets."""
        met = all(budget.is_met(removed) for budget in self.sums)
        return met and (self.memory is None or self.memory.is_met(removed))

    def shares(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return by path which share of all that must be saved each candidate saves beside what is removed already.

        Of several costs the mean of those that are to be saved. What is saved beyond a target counts as nothing.
        """
        parts = []
        for budget in self._counted():
            missing, whole = budget.missing(removed), max(budget.surplus, budget.unit)
            saved = budget.saved(candidates, removed)
            parts.append({path: min(amount, missing) / whole for path, amount in saved.items()})
        return {one.path: sum(part[one.path] for part in parts) / len(parts) for one in candidates}

    def overshoots(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return by path, of candidates that each save all that is missing, what they save over what they leave."""
        found = dict.fromkeys((one.path for one in candidates), 0.0)
        for budget in self._counted():
            missing, left = budget.excess(removed), budget.left(removed)
            for path, amount in budget.saved(candidates, removed).items():
                if amount < missing:
                    found.pop(path, None)
                elif path in found:
                    found[path] += amount / max(left - amount, budget.unit or 1)
        return found

    def _counted(self) -> list[SumBudget]:
        return [budget for budget in self.sums if budget.surplus > 0] or self.sums[:1]
