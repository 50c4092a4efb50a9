"""What layers must save, MACs and parameters, so that a graph without them meets its targets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.errors import TargetError, require_share
from fxprune.facts.costs import total_macs, total_params, warn_of_unknown_macs
from fxprune.facts.holders import Holders
from fxprune.facts.layers import Layer, count_for_target, layers, macs_in_turn
from fxprune.graph import TRACED_MACS


class Surplus:
    """The MACs, and with ``target_params`` the parameters, that a graph has beyond its targets.

    Args:
        graph_module: a graph with layer scales.
        target_macs: the share to leave of the MACs that were traced; None: all may stay.
        target_params: likewise of the parameters that the graph holds, those of scales left out.
        least_macs: MACs that have to go in any case, for another target.
        holders: who holds which parameter of the graph, where somebody asked already.

    Raises:
        TargetError: a target cannot be met without all layers; says what can.

    Warns:
        FxpruneWarning: the graph has ops whose MACs nobody knows; ``target_macs`` counts the others.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        target_macs: float | None,
        target_params: float | None,
        least_macs: int = 0,
        holders: Holders | None = None,
    ) -> None:
        require_share("target_macs", "MACs", target_macs)
        require_share("target_params", "parameters", target_params)
        self._graph_module = graph_module
        self._all = layers(graph_module)
        self._target_macs = 1.0 if target_macs is None else target_macs
        self._holders = holders or Holders(graph_module)
        count_for_target(graph_module, self._all, self._target_macs)  # raises
        if target_macs is not None:
            warn_of_unknown_macs(graph_module, stacklevel=3)
        macs = total_macs(graph_module)
        self._macs = max(macs - self._target_macs * graph_module.meta.get(TRACED_MACS, macs), least_macs)
        self._total_params = total_params(graph_module)
        self._most_params: float = self._total_params
        if target_params is None:
            return
        self._most_params = target_params * self._total_params
        if self.params_left(self._all) > 0:
            least = 1 - self._holders.only_by(_nodes(self._all)) / self._total_params
            raise TargetError(
                f"target_params={target_params:g} cannot be met: without all {len(self._all)} removable layers "
                f"{least:.3f} of the parameters are left; ask for at least {least + 5e-4:.3f}"
            )

    def is_met(self, removed: Sequence[Layer]) -> bool:
        """Say whether the graph without these layers meets both targets."""
        chosen = {layer.path for layer in removed}
        rest = [layer for layer in self._all if layer.path not in chosen]
        if count_for_target(self._graph_module, [*removed, *rest], self._target_macs) > len(removed):
            return False
        return self.params_left(removed) <= 0

    def params_left(self, removed: Collection[Layer]) -> float:
        """Return how many parameters must go beside those of these layers; 0 or less once their target is met."""
        return self._total_params - self._holders.only_by(_nodes(removed)) - self._most_params

    def shares(self, candidates: Collection[Layer], removed: Sequence[Layer]) -> dict[str, float]:
        """Return by path which share of all that must be saved each candidate saves beside what is removed already.

        Of MACs and parameters the mean, if both are to be saved. What is saved beyond a target counts as nothing.
        """
        gone = _nodes(removed)
        macs, params = self._macs - sum(macs_in_turn(removed)), self.params_left(removed)
        surplus = self._total_params - self._most_params
        shares = {}
        for layer in candidates:
            parts = []
            if self._macs > 0 or surplus <= 0:
                parts.append(min(layer.macs_beside(gone), max(macs, 1)) / max(self._macs, 1))
            if surplus > 0:
                parts.append(min(self._holders.only_by(layer.nodes, gone), max(params, 0)) / surplus)
            shares[layer.path] = sum(parts) / len(parts)
        return shares

    def params_of(self, layer: Layer) -> int:
        """Return how many parameters go with ``layer``."""
        return self._holders.only_by(layer.nodes)


def _nodes(removed: Collection[Layer]) -> frozenset[fx.Node]:
    return frozenset().union(*(layer.nodes for layer in removed))
