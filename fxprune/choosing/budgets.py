"""How far a graph without some of its layers is from a share of its MACs, or of its parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.choosing.budget import SumBudget
from fxprune.costs.macs import total_macs, total_params
from fxprune.costs.parameter_holders import Holders
from fxprune.errors import TargetError
from fxprune.ir.nodes import TRACED_MACS
from fxprune.structures.gated_layers import Gate, count_for_target, layers, macs_in_turn


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


def _nodes(removed: Collection[Gate]) -> frozenset[fx.Node]:
    return frozenset().union(*(layer.nodes for layer in removed))
