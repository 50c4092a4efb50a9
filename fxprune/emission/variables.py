"""Names for the values of an emitted forward: few, short, free again after the last read of their value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import fx

from fxprune.emission.blocks import Block
from fxprune.facts.shapes import same_shape, shape

_NAMES = ("x", "y", "z", "u", "v", "w")


class Variables:
    """Hands out names as the statements of a block come: nodes, and calls of blocks inside.

    Some values overwrite others: :func:`fxprune.facts.overwriting.overwritten`.
    """

    def __init__(
        self, items: Sequence[fx.Node | Block], returned: Sequence[fx.Node], overwriting: Mapping[fx.Node, fx.Node]
    ) -> None:
        self.overwriting = overwriting
        self._names: dict[fx.Node, str] = {}
        self._last_read: dict[fx.Node, int] = dict.fromkeys(returned, len(items))
        self._order: dict[fx.Node, int] = {}
        self._reads: dict[int, Sequence[fx.Node]] = {}
        for at, item in enumerate(items):
            self._reads[at] = item.inputs if isinstance(item, Block) else item.all_input_nodes
            for made in item.outputs if isinstance(item, Block) else (item,):
                self._order[made] = at
            for read in self._reads[at]:
                self._last_read[read] = max(at, self._last_read.get(read, at))
        self._live: dict[str, fx.Node] = {}
        self._bound: dict[str, fx.Node] = {}  # also those that are dead, but keep their memory until bound anew

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

    def spare(self) -> str:
        """Return the first name that is free."""
        return next(
            name for name in (*_NAMES, *(f"v{i}" for i in range(1, len(self._live) + 2))) if name not in self._live
        )

    def assign(self, node: fx.Node) -> str:
        """Return the name for a new value: that of an input of its statement that ends here, or the first free one.

        If it overwrites that input, it has no memory of its own: it gets the name of a dead value as large, if there
        is one, whose memory is free then.
        """
        at = self._order[node]
        self._end_before(at)
        ended = [self._names[read] for read in self._reads[at] if read in self._names and self._last_read[read] == at]
        own = [name for name in ended if name.isidentifier() and name not in self._live]
        source = self.overwriting.get(node)
        dead = []
        if source is not None:
            free = [(name, value) for name, value in self._bound.items() if name not in self._live]
            dead = [name for name, value in free if value is not source and same_shape(value, node)]
        return self._bind(node, (dead or own or [self.spare()])[0])

    def let_go(self, node: fx.Node) -> list[str]:
        """Return the names to delete before ``node`` runs: of dead values that hold as much memory as it will need.

        Where the name is bound anew before so much is needed, nothing has to be said.
        """
        if node in self.overwriting or not node.users:
            return []
        at, needed = self._order[node], _elements(node)
        living = {self._memory(value) for value in self._bound.values() if self._ends(value) >= at}
        found = [
            name
            for name, value in self._bound.items()
            if self._ends(value) < at and _elements(value) >= needed > 1 and self._memory(value) not in living
        ]
        for name in found:
            del self._bound[name]
        return found

    def _ends(self, value: fx.Node) -> int:
        return self._last_read.get(value, self._order.get(value, -1))

    def _memory(self, value: fx.Node) -> fx.Node:
        while value in self.overwriting:
            value = self.overwriting[value]
        return value

    def take_over(self, node: fx.Node, source: fx.Node) -> None:
        """Give ``node``, which overwrites ``source``, that one's name."""
        self._end_before(self._order[node])
        self._bind(node, self._names[source])

    def _bind(self, node: fx.Node, name: str) -> str:
        self._names[node] = name
        self._live[name] = self._bound[name] = node
        return name

    def _end_before(self, at: int) -> None:
        """Free the names of values that are not read after position ``at``."""
        self._live = {name: value for name, value in self._live.items() if self._ends(value) > at}


def _elements(node: fx.Node) -> int:
    return math.prod(shape(node) or (0,))
