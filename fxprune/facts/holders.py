"""Which parameters go when nodes are removed: those that no other node holds."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxprune.branch_scale import BranchScale
from fxprune.facts.costs import around_regions
from fxprune.graph import called_module, graphs_of


class Holders:
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
