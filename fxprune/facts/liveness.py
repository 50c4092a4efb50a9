"""What a graph would no longer compute if some of its values were not read any more."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from fxprune.facts.effects import has_effect, is_guard


class Liveness:
    """Which nodes of a graph its output needs, and which would go with others. Read it before editing the graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self._idle: set[fx.Node] = set()
        self._effects: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if has_effect(node):
                self._effects.add(node)
            elif is_guard(node) or self._idle.issuperset(node.users):
                self._idle.add(node)

    def has_effect(self, node: fx.Node) -> bool:
        """Say whether ``node`` matters beside its value, see :func:`fxprune.facts.effects.has_effect`."""
        return node in self._effects

    def needed(self, node: fx.Node) -> bool:
        """Say whether the output, or another effect than an assertion, depends on ``node``."""
        return node not in self._idle

    def dead_once_passed_by(self, node: fx.Node, kept: fx.Node) -> set[fx.Node]:
        """Return ``node`` and all that nobody needs once its readers read ``kept``, one of its inputs, instead."""
        others = [source for source in node.all_input_nodes if source is not kept]
        return {node} | self._dead(others, reader=node, kept=kept)

    def _dead(self, values: Iterable[fx.Node], reader: fx.Node, kept: fx.Node) -> set[fx.Node]:
        dead: set[fx.Node] = set()
        waiting = list(values)
        while waiting:
            node = waiting.pop()
            if node in dead or node is kept or node in self._effects:
                continue
            if any(self.needed(user) and user not in dead and user is not reader for user in node.users):
                continue
            dead.add(node)
            for checked in self._idle_readers(node):
                dead.add(checked)
                waiting.extend(checked.all_input_nodes)
            waiting.extend(node.all_input_nodes)
        return dead

    def _idle_readers(self, node: fx.Node) -> set[fx.Node]:
        found: set[fx.Node] = set()
        waiting = list(node.users)
        while waiting:
            user = waiting.pop()
            if user in self._idle and user not in found:
                found.add(user)
                waiting.extend(user.users)
        return found
