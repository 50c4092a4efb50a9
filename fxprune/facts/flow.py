"""The dataflow between the tensors of a graph that depend on its inputs, with its dominators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from fxprune.facts.liveness import Liveness
from fxprune.facts.shapes import is_size

if TYPE_CHECKING:
    import networkx

_START = "start"  # stands before all inputs


class Flow:
    """Which tensors are computed from which, constants and sizes left out."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        import networkx  # not with fxprune itself: it takes as long as all the rest of it

        self.order = list(graph_module.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.order)}
        self.live = Liveness(graph_module.graph)
        self._sources: dict[fx.Node, list[fx.Node]] = {}
        graph: networkx.DiGraph[Any] = networkx.DiGraph()
        graph.add_node(_START)
        for node in self.order:
            if node.op == "placeholder":
                self._sources[node] = []
                graph.add_edge(_START, node)
            elif self.live.needed(node) and not is_size(node):
                sources = [source for source in node.all_input_nodes if source in self._sources]
                if sources:
                    self._sources[node] = sources
                    graph.add_edges_from((source, node) for source in sources)
        parents = networkx.immediate_dominators(graph, _START)
        children: dict[Any, list[Any]] = {}
        for node, parent in parents.items():
            if node is not _START:
                children.setdefault(parent, []).append(node)
        self._interval: dict[Any, tuple[int, int]] = {}
        _number(children, self._interval)

    def dominates(self, a: fx.Node, b: fx.Node) -> bool:
        """Say whether every path from the inputs to ``b`` passes ``a``."""
        if a not in self._interval or b not in self._interval:
            return False
        (first, last), (at, _) = self._interval[a], self._interval[b]
        return first <= at <= last

    def between(self, entry: fx.Node, exit_node: fx.Node) -> set[fx.Node]:
        """Return the nodes on the paths from ``entry``, which dominates it, to ``exit_node``; without ``entry``."""
        found = {exit_node}
        waiting = [exit_node]
        while waiting:
            for source in self._sources[waiting.pop()]:
                if source is not entry and source not in found:
                    found.add(source)
                    waiting.append(source)
        return found

    def reader_outside(self, node: fx.Node, inside: set[fx.Node], allowed: fx.Node | None) -> fx.Node | None:
        """Return a node outside the region, but not ``allowed``, that needs ``node`` or a size read from it."""
        waiting = [user for user in node.users if self.live.needed(user)]
        seen: set[fx.Node] = set()
        while waiting:
            user = waiting.pop()
            if user in inside or user is allowed or user in seen:
                continue
            if user in self._sources or not is_size(user):
                return user
            seen.add(user)
            waiting.extend(reader for reader in user.users if self.live.needed(reader))
        return None


def _number(children: dict[Any, list[Any]], interval: dict[Any, tuple[int, int]]) -> None:
    """Number a tree in preorder: ``interval[n]`` is the number of n and the highest one below it."""
    count = 0
    first: dict[Any, int] = {}
    stack: list[tuple[Any, bool]] = [(_START, False)]
    while stack:
        node, done = stack.pop()
        if done:
            interval[node] = (first[node], count - 1)
            continue
        first[node] = count
        count += 1
        stack.append((node, True))
        stack.extend((child, False) for child in children.get(node, ()))
