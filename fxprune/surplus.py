"""What layers must save, MACs and parameters, so that a graph without them meets its targets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from fxprune.branch_scale import BranchScale
from fxprune.errors import FxpruneError, TargetError
from fxprune.facts.costs import around_regions, total_macs, total_params
from fxprune.facts.layers import Layer, count_for_target, layers, macs_in_turn
from fxprune.graph import TRACED_MACS, called_module, graphs_of


class Surplus:
    """The MACs, and with ``target_params`` the parameters, that a graph has beyond its targets.

    Args:
        graph_module: a graph with layer scales.
        target_macs: the share to leave of the MACs that were traced.
        target_params: the share to leave of the parameters that the graph holds, those of scales left out.
        least_macs: MACs that have to go in any case, for another target.

    Raises:
        TargetError: a target cannot be met without all layers; says what can.
    """

    def __init__(
        self, graph_module: fx.GraphModule, *, target_macs: float, target_params: float | None, least_macs: int = 0
    ) -> None:
        self._graph_module = graph_module
        self._all = layers(graph_module)
        self._target_macs = target_macs
        self._held = _Holders(graph_module)
        count_for_target(graph_module, self._all, target_macs)  # raises
        macs = total_macs(graph_module)
        self._macs = max(macs - target_macs * graph_module.meta.get(TRACED_MACS, macs), least_macs)
        self._total_params = total_params(graph_module)
        self._most_params: float = self._total_params
        if target_params is None:
            return
        if not 0 < target_params <= 1:
            raise FxpruneError(f"target_params is the share of parameters to leave, in (0, 1]; got {target_params}")
        self._most_params = target_params * self._total_params
        if self.params_left(self._all) > 0:
            least = 1 - self._held.only_by(_nodes(self._all)) / self._total_params
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
        return self._total_params - self._held.only_by(_nodes(removed)) - self._most_params

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
                parts.append(min(self._held.only_by(layer.nodes, gone), max(params, 0)) / surplus)
            shares[layer.path] = sum(parts) / len(parts)
        return shares

    def params_of(self, layer: Layer) -> int:
        """Return how many parameters go with ``layer``."""
        return self._held.only_by(layer.nodes)


class _Holders:
    """Which nodes hold each parameter; those that only measure a branch's weights, for its scale, do not count.

    What lies in a region is held by the region's nodes alone, not by the call of the opaque module around it.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._sizes: dict[int, int] = {}
        self._nodes: dict[int, set[fx.Node]] = {}
        self._params: dict[fx.Node, list[int]] = {}
        for _, graph in graphs_of(graph_module):
            for node in graph.graph.nodes:
                if node.op == "get_attr" and all(isinstance(called_module(n), BranchScale) for n in node.users):
                    continue
                found = around_regions(node)
                self._params[node] = list(found)
                for key, parameter in found.items():
                    self._sizes[key] = parameter.numel()
                    self._nodes.setdefault(key, set()).add(node)

    def only_by(self, nodes: Collection[fx.Node], gone: Collection[fx.Node] = ()) -> int:
        """Return how many parameters no other nodes than these hold, once the nodes ``gone`` are removed already."""
        keys = {key for node in nodes if node not in gone for key in self._params.get(node, ())}
        return sum(
            self._sizes[key] for key in keys if all(node in nodes or node in gone for node in self._nodes[key])
        )


def _nodes(removed: Collection[Layer]) -> frozenset[fx.Node]:
    return frozenset().union(*(layer.nodes for layer in removed))
