"""Which nodes of two graphs stand for one another, told by their origins.

A node of ``after`` stands for those of ``before`` whose traced nodes it stands for. Where several claim the same ones
(what a pass made of a layer, and a factor that it put behind it), the one that kept the layer's name has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from fxprune.diffing.entries import NodeInfo
from fxprune.ir.nodes import origins

Nodes = Mapping[fx.Node, NodeInfo]
Matches = dict[fx.Node, tuple[fx.Node, ...]]
"""For nodes of ``after`` those of ``before`` that they stand for: the one that they were, then those they took in."""


def match_by_origin(before: Nodes, after: Nodes) -> Matches:
    """Match the nodes of two graphs of one trace; each of ``before`` is matched once at most."""
    return _Matching(before, after).run()


class _Matching:
    def __init__(self, before: Nodes, after: Nodes) -> None:
        self.before, self.after = before, after
        self.origins = {node: frozenset(origins(node)) for node in (*before, *after)}
        self.claimed: dict[str, list[fx.Node]] = {}
        for node in before:
            for name in origins(node):
                self.claimed.setdefault(name, []).append(node)
        self.taken: set[fx.Node] = set()
        self.matches: Matches = {}

    def run(self) -> Matches:
        named = {node.name: node for node in self.before}
        ends = {node.op: node for node in self.before if node.op == "output"}
        for node in self.after:
            twin = ends.get(node.op) or named.get(node.name)
            if twin is not None and (node.op == "output" or self._is_kept(twin, node)):
                self._take(node, twin)
        for node in list(self.matches):
            self._take_in(node)
        for node in self.after:
            if node not in self.matches:
                self._find(node)
        return self.matches

    def _is_kept(self, old: fx.Node, new: fx.Node) -> bool:
        return not self.origins[old].isdisjoint(self.origins[new]) and self._may_become(old, new)

    def _may_become(self, old: fx.Node, new: fx.Node) -> bool:
        """Say whether ``new`` can be what ``old`` became: a layer of which only a factor is left is gone."""
        was, now = self.before[old], self.after[new]
        return was.op == now.op or not _is_layer(was) or _is_layer(now)

    def _take(self, new: fx.Node, old: fx.Node) -> None:
        self.matches[new] = (*self.matches.get(new, ()), old)
        self.taken.add(old)

    def _take_in(self, new: fx.Node) -> None:
        """Give ``new`` the nodes whose origins it has and what it was before had not: those it took in."""
        gained = self.origins[new] - self.origins[self.matches[new][0]]
        for name in sorted(gained):
            for old in self.claimed.get(name, ()):
                if old not in self.taken and self.origins[old] <= self.origins[new] and self._may_become(old, new):
                    self._take(new, old)

    def _find(self, new: fx.Node) -> None:
        """Match a node whose name is new with the best of those whose origins it shares and that are left."""
        names = origins(new)
        left = dict.fromkeys(old for name in names for old in self.claimed.get(name, ()) if old not in self.taken)
        if not left or not all(self._may_become(old, new) for old in left):
            return
        place = {old: index for index, old in enumerate(left)}

        def likeness(old: fx.Node) -> tuple[bool, int, int]:
            alike = self.before[old].op == self.after[new].op
            return alike, len(self.origins[old] & self.origins[new]), place[old]  # the last computes its value

        self._take(new, max(left, key=likeness))
        self._take_in(new)


def _is_layer(info: NodeInfo) -> bool:
    return info.macs > 0 or info.params > 0
