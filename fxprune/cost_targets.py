"""What layers must save, of MACs, parameters and memory, so that a graph without them meets its targets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.choosing.budget import Budget, SumBudget
from fxprune.errors import TargetError
from fxprune.facts.costs import total_macs, total_params, warn_of_unknown_macs
from fxprune.facts.holders import Holders
from fxprune.facts.layers import Gate, count_for_target, layers, macs_in_turn
from fxprune.graph import TRACED_MACS
from fxprune.memory_target import MemoryTarget
from fxprune.targets import Targets


class MacsBudget(SumBudget):
    """The share to leave of the MACs of one sample that were traced, with MACs that have to go in any case."""

    unit = 1.0

    def __init__(self, graph_module: fx.GraphModule, share: float, least: int = 0) -> None:
        count_for_target(graph_module, layers(graph_module), share)  # raises
        self._total = total_macs(graph_module)
        self._most: float = share * graph_module.meta.get(TRACED_MACS, self._total)
        self._to_save: float = max(self._total - self._most, least)

    def left(self, removed: Sequence[Gate]) -> int:
        """Return the MACs of the graph without these layers."""
        return self._total - sum(macs_in_turn(removed))

    def excess(self, removed: Sequence[Gate]) -> float:
        """Return the MACs that are above the target, or have to go."""
        return self._to_save - sum(macs_in_turn(removed))

    def is_met(self, removed: Sequence[Gate]) -> bool:
        """Say whether the target is met, whatever else has to go."""
        return self.left(removed) <= self._most

    def saved(self, candidates: Collection[Gate], removed: Sequence[Gate]) -> dict[str, float]:
        """Return the MACs of the nodes that go with each."""
        gone = _nodes(removed)
        return {layer.path: layer.macs_beside(gone) for layer in candidates}


class ParamsBudget(SumBudget):
    """The share to leave of the parameters that a graph holds, those of scales left out."""

    def __init__(self, graph_module: fx.GraphModule, share: float, holders: Holders | None = None) -> None:
        self._holders = holders or Holders(graph_module)
        self._total = total_params(graph_module)
        self._most = share * self._total
        everything = layers(graph_module)
        if self.excess(everything) > 0:
            least = 1 - self._holders.only_by(_nodes(everything)) / self._total
            raise TargetError(
                f"target_params={share:g} cannot be met: without all {len(everything)} removable layers "
                f"{least:.3f} of the parameters are left; ask for at least {least + 5e-4:.3f}"
            )

    def left(self, removed: Sequence[Gate]) -> int:
        """Return the parameters of the graph without these layers."""
        return self._total - self._holders.only_by(_nodes(removed))

    def excess(self, removed: Sequence[Gate]) -> float:
        """Return the parameters that are above the target."""
        return self.left(removed) - self._most

    def saved(self, candidates: Collection[Gate], removed: Sequence[Gate]) -> dict[str, float]:
        """Return the parameters that no node holds but those that go."""
        gone = _nodes(removed)
        return {layer.path: self._holders.only_by(layer.nodes, gone) for layer in candidates}


class Surplus:
    """What a graph has beyond all of its targets: a budget for each.

    Args:
        graph_module: a graph with layer scales.
        targets: the shares to leave.
        holders: who holds which parameter of the graph, where somebody asked already.

    Attributes:
        sums: the budgets of costs that add up over layers: of MACs, and of parameters if they have a target.
        params: that of parameters, if they have one.
        memory: that of the memory, likewise: of a peak, which layers lower together or not at all.

    Raises:
        TargetError: a target cannot be met without all layers; says what can.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; a target counts the others.
    """

    def __init__(self, graph_module: fx.GraphModule, targets: Targets, holders: Holders | None = None) -> None:
        if targets.macs is not None:
            warn_of_unknown_macs(graph_module, stacklevel=3)
        self.memory: Budget | None = None
        least = 0
        if targets.memory is not None:
            self.memory = MemoryTarget(graph_module, targets.memory)
            least = self.memory.macs_to_meet_it()
        self.sums: list[SumBudget] = [MacsBudget(graph_module, targets.macs or 1.0, least)]
        self.params = None if targets.params is None else ParamsBudget(graph_module, targets.params, holders)
        if self.params is not None:
            self.sums.append(self.params)

    def is_met(self, removed: Sequence[Gate]) -> bool:
        """Say whether the graph without these layers meets all targets."""
        met = all(budget.is_met(removed) for budget in self.sums)
        return met and (self.memory is None or self.memory.is_met(removed))

    def shares(self, candidates: Collection[Gate], removed: Sequence[Gate]) -> dict[str, float]:
        """Return by path which share of all that must be saved each candidate saves beside what is removed already.

        Of MACs and parameters the mean, if both are to be saved. What is saved beyond a target counts as nothing.
        """
        parts = []
        for budget in self._counted():
            missing, whole = budget.missing(removed), max(budget.surplus, budget.unit)
            saved = budget.saved(candidates, removed)
            parts.append({path: min(amount, missing) / whole for path, amount in saved.items()})
        return {layer.path: sum(part[layer.path] for part in parts) / len(parts) for layer in candidates}

    def overshoots(self, candidates: Collection[Gate], removed: Sequence[Gate]) -> dict[str, float]:
        """Return by path, of candidates that each save all that is missing, what they save over what they leave."""
        found = dict.fromkeys((layer.path for layer in candidates), 0.0)
        for budget in self._counted():
            missing, left = budget.excess(removed), budget.left(removed)
            for path, amount in budget.saved(candidates, removed).items():
                if amount < missing:
                    found.pop(path, None)
                elif path in found:
                    found[path] += amount / max(left - amount, 1)
        return found

    def _counted(self) -> list[SumBudget]:
        return [budget for budget in self.sums if budget.surplus > 0] or self.sums[:1]


def _nodes(removed: Collection[Gate]) -> frozenset[fx.Node]:
    return frozenset().union(*(layer.nodes for layer in removed))
