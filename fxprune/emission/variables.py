"""Names for the values of an emitted forward: few, short, free again after the last read of their value."""

from __future__ import annotations

from torch import fx

_NAMES = ("x", "y", "z", "u", "v", "w")


class Variables:
    """Hands out names in graph order."""

    def __init__(self, graph: fx.Graph) -> None:
        self._names: dict[fx.Node, str] = {}
        self._last_read: dict[fx.Node, fx.Node] = {}
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            for read in node.all_input_nodes:
                self._last_read[read] = node
        self._live: dict[str, fx.Node] = {}

    def of(self, node: fx.Node) -> str:
        """Return the name, or the expression, that stands for ``node``."""
        return self._names[node]

    def alias(self, node: fx.Node, expression: str) -> None:
        """Let ``expression`` stand for ``node`` wherever it is read."""
        self._names[node] = expression

    def input(self, node: fx.Node, name: str) -> None:
        """Give an input its name; it is free for other values once the input was read for the last time."""
        self._names[node] = name
        self._live[name] = node

    def assign(self, node: fx.Node) -> str:
        """Return the name for a new value: that of an input of ``node`` which ends here, else the first free one."""
        at = self._order[node]
        self._live = {
            name: value
            for name, value in self._live.items()
            if value in self._last_read and self._order[self._last_read[value]] > at
        }
        ended = [self._names[read] for read in node.all_input_nodes if self._last_read[read] is node]
        own = [name for name in ended if name.isidentifier() and name not in self._live]
        spare = (name for name in (*_NAMES, *(f"v{i}" for i in range(1, at + 2))) if name not in self._live)
        name = own[0] if own else next(spare)
        self._names[node] = name
        self._live[name] = node
        return name
