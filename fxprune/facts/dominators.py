"""The dataflow between the tensors of a graph that depend on its inputs, with its dominators."""

from __future__ import annotations

from torch import fx

from fxprune.facts.liveness import Liveness
from fxprune.facts.shapes import is_size


class Flow:
    """Which tensors are computed from which, constants and sizes left out."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.order = list(graph_module.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.order)}
        self.live = Liveness(graph_module.graph)
        self._sources: dict[fx.Node, list[fx.Node]] = {}
        self._dominator: dict[fx.Node, fx.Node | None] = {}  # the immediate one; None where there is none
        self._depth: dict[fx.Node | None, int] = {None: 0}
        for node in self.order:  # sources first, so that one pass tells the dominators
            if node.op == "placeholder":
                self._add(node, [])
            elif self.live.needed(node) and not is_size(node):
                sources = [source for source in node.all_input_nodes if source in self._sources]
                if sources:
                    self._add(node, sources)

    def _add(self, node: fx.Node, sources: list[fx.Node]) -> None:
        self._sources[node] = sources
        common: fx.Node | None = sources[0] if sources else None
        for source in sources[1:]:
            common = self._common_dominator(common, source)
        self._dominator[node] = common
        self._depth[node] = self._depth[common] + 1

    def _common_dominator(self, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        """Return the last node that dominates both or is one of them, if there is one."""
        while a is not b:
            if self._depth[a] >= self._depth[b]:
                a = self._dominator[a] if a is not None else None
            else:
                b = self._dominator[b] if b is not None else None
        return a

    def dominates(self, a: fx.Node, b: fx.Node) -> bool:
        """Say whether every path from the inputs to ``b`` passes ``a``."""
        if a not in self._depth or b not in self._depth:
            return False
        above: fx.Node | None = b
        while above is not None and self._depth[above] > self._depth[a]:
            above = self._dominator[above]
        return above is a

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
