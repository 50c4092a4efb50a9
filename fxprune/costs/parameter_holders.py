"""Which parameters go when nodes are removed: those that no other node holds."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from torch import fx, nn

from fxprune.costs.macs import around_regions
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.nodes import called_module, graphs_of


class Holders:
    """Which nodes hold each parameter; those that only measure a branch's weights, for its scale, do not count.

    What lies in a region is held by the region's nodes alone, not by the call of the opaque module around it.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module

    @cached_property
    def _params(self) -> dict[fx.Node, dict[int, nn.Parameter]]:
        """The parameters that each node holds, by id; worked out when first asked for."""
        return {
            node: around_regions(node)
            for _, graph in graphs_of(self._graph_module)
            for node in graph.graph.nodes
            if node.op != "get_attr" or not all(_measures(user, node) for user in node.users)
        }

    @cached_property
    def _nodes(self) -> dict[int, set[fx.Node]]:
        """The nodes that hold each parameter."""
        found: dict[int, set[fx.Node]] = {}
        for node, params in self._params.items():
            for key in params:
                found.setdefault(key, set()).add(node)
        return found

    def held(self, graph: fx.GraphModule) -> dict[int, tuple[nn.Parameter, frozenset[fx.Node]]]:
        """Return the parameters that ``graph``, the graph or a region, holds, by id, each with its holders."""
        own = {key: one for node in graph.graph.nodes for key, one in self._params.get(node, {}).items()}
        return {key: (one, frozenset(self._nodes[key])) for key, one in own.items()}

    def only_by(self, nodes: Collection[fx.Node]) -> int:
        """Return how many parameters no other nodes than these hold."""
        params: dict[int, nn.Parameter] = {}
        for node in nodes:
            params |= self._params.get(node, {})
        own = (parameter for key, parameter in params.items() if all(node in nodes for node in self._nodes[key]))
        return sum(parameter.numel() for parameter in own)


def _measures(user: fx.Node, node: fx.Node) -> bool:
    module = called_module(user)
    return isinstance(module, ScaledLayer) and node not in user.args[: module.operands]
