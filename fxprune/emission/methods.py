"""The lines of a forward: statement by statement what a block computes, in the order of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from fxprune.emission.blocks import Block, is_inside
from fxprune.emission.expressions import Expressions
from fxprune.errors import EmitError
from fxprune.facts.overwriting import is_sum
from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ir.nodes import place

Homes = Callable[[fx.Node], str]


class Method:
    """Writes the statements of a block, the blocks inside that were dissolved in their place."""

    def __init__(
        self, block: Block, items: Sequence[fx.Node | Block], expressions: Expressions, homes: Homes
    ) -> None:
        self._block = block
        self._items = items
        self._expressions = expressions
        self._homes = homes
        self._open: list[fx.Node] = []
        self._section = block.path

    def lines(self) -> list[str]:
        """Return the lines, indented once; none of them returns anything."""
        lines: list[str] = []
        for item in self._items:
            if isinstance(item, Block):
                lines += self._inner_block(item)
            else:
                lines += self._node(item, bool(lines), lines[-1].endswith(":") if lines else False)
        return lines

    @property
    def _indent(self) -> str:
        return "    " * (1 + len(self._open))

    def _inner_block(self, block: Block) -> list[str]:
        expressions, names = self._expressions, self._expressions.names
        given = [expressions.value(list(block.inputs))] if block.takes_list else map(expressions.value, block.inputs)
        call = f"{expressions.within(block.path)}({', '.join(given)})"
        dead = names.let_go(block.outputs[0]) if block.outputs else []
        made = ", ".join([names.assign(output) for output in block.outputs])
        self._section = self._block.path
        deleted = [f"{self._indent}del {', '.join(dead)}"] * bool(dead)
        return [*deleted, f"{self._indent}{made} = {call}" if made else f"{self._indent}{call}"]

    def _node(self, node: fx.Node, began: bool, just_opened: bool) -> list[str]:
        expressions, indent = self._expressions, self._indent
        if node.target is ENTER_AUTOCAST:
            self._open.append(node)
            return [f"{indent}with {expressions.autocast(node)}:"]
        if node.target is EXIT_AUTOCAST:
            if not self._open or self._open.pop() is not node.args[0]:
                raise EmitError(f"{place(node)}: it ends an autocast that is not the innermost; it cannot be emitted")
            return [f"{indent}pass"] * just_opened
        lines = self._comment(node, began)
        dead = expressions.names.let_go(node)
        lines += [f"{indent}del {', '.join(dead)}"] * bool(dead)
        if node in expressions.names.overwriting and is_sum(node):
            return [*lines, f"{indent}{self._sum_in_place(node)}"]
        text = expressions.node(node)
        name = f"{expressions.names.assign(node)} = " if node.users else ""
        return [*lines, *(f"{indent}{row}" for row in f"{name}{text}".split("\n"))]

    def _comment(self, node: fx.Node, began: bool) -> list[str]:
        """Return a line that names the module inside of which ``node`` is, where that begins."""
        section = self._homes(node)
        if section == self._section or not is_inside(section, self._block.path):
            return []
        self._section = section
        own = section[len(self._block.path) + 1 :] if self._block.path else section
        return [*[""] * began, f"{self._indent}# {own}"] if own else []

    def _sum_in_place(self, node: fx.Node) -> str:
        expressions = self._expressions
        source = expressions.names.overwriting[node]
        (other,) = (one for one in node.args if one is not source)
        text = f"{expressions.names.of(source)} += {expressions.value(other)}"
        expressions.names.take_over(node, source)
        return text
