"""The blocks of a graph as text, the innermost first: blocks of equal text, but for constants, become one class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from torch import fx, nn

from fxprune.emission.blocks import Block, is_inside, owner, row
from fxprune.emission.calls import Call, Statement
from fxprune.emission.classes import Group, Written
from fxprune.emission.expressions import Expressions
from fxprune.emission.growing import Growing, growing, loop_of
from fxprune.emission.init_code import is_placed, layer_call, sequential, statements
from fxprune.emission.methods import Method
from fxprune.emission.state_layout import StateLayout
from fxprune.emission.variables import Variables
from fxprune.ir.node_targets import is_identifier

_SMALL = 2  # statements of a block that is no class if it occurs once
_LIST = "features"


class Writer:
    """Writes blocks; what was written of those inside is told by path."""

    def __init__(
        self,
        layout: StateLayout,
        overwriting: Mapping[fx.Node, fx.Node],
        homes: Callable[[fx.Node], str],
        classes: Mapping[str, str],
        reserved: Collection[str],
    ) -> None:
        self.homes = homes
        self.expressions: list[Expressions] = []
        self._layout = layout
        self._overwriting = overwriting
        self._classes = classes
        self._calls: dict[str, Call] = {}
        self._groups: list[Group] = []
        self._small: dict[str, tuple[Block, Written]] = {}
        self._used = set(reserved)
        self._inside: dict[str, list[str]] = {}
        self._index: dict[str, int] = {}

    def blocks(self, trees: Sequence[Block]) -> str:
        """Write all blocks of the graphs of one network; return the source of their classes."""
        known: dict[str, Block] = {}
        for tree in trees:
            for block in tree.blocks():
                known.setdefault(block.path, block)
        self._place(known)
        waiting: dict[int, list[Block]] = {}
        heights: dict[str, int] = {}
        for block in known.values():  # those inside come first
            inner = [heights[item.path] for item in block.items if isinstance(item, Block)]
            heights[block.path] = max(inner, default=0) + 1
            waiting.setdefault(heights[block.path], []).append(block)
        for height in sorted(waiting):
            self._write(waiting[height])
        return "".join(group.source() for group in self._groups)

    def _place(self, known: Iterable[str]) -> None:
        """Note what belongs to which block, by path, and in which order the traced model held it."""
        paths = {"", *known}
        held = (*self._layout.layers, *self._layout.tensors)
        for path in (*held, *known):
            outer = owner(path)
            while outer not in paths:
                outer = owner(outer)
            self._inside.setdefault(outer, []).append(path)
        for index, path in enumerate(held):
            while path and path not in self._index:
                self._index[path] = index
                path = owner(path)

    def _write(self, blocks: Sequence[Block]) -> None:
        """Write blocks, given those that are inside them."""
        groups: dict[object, list[tuple[Block, Written]]] = {}
        for block in blocks:
            written = self._written(block)
            groups.setdefault(written.key(), []).append((block, written))
        for members in groups.values():
            block, written = members[0]
            if written.chain is not None and (len(members) == 1 or block.path not in self._classes):
                self._calls.update({one.path: w.chain for one, w in members if w.chain is not None})
            elif len(members) == 1 and len(self.items(block)) <= _SMALL:
                self._small[block.path] = block, written
            else:
                self._make_class(members)

    def _make_class(self, members: Sequence[tuple[Block, Written]]) -> None:
        group = Group(self._name(members[0][0].path), [written for _, written in members])
        self._groups.append(group)
        self._calls.update({block.path: group.call(index) for index, (block, _) in enumerate(members)})

    def _name(self, path: str) -> str:
        """Return a free name for a class: that of the traced model's own class, or of the path."""
        base = self._classes.get(path) or _name_of(path)
        name = next(
            name for name in (f"{base}{n}" for n in ("", *range(2, len(self._used) + 3))) if name not in self._used
        )
        self._used.add(name)
        return name

    def _written(self, block: Block) -> Written:
        chain = self._chain(block)
        kind = self._classes.get(block.path, "")
        if chain is not None:
            return Written(block.path, kind, [], chain=chain)
        held = self._held(block)
        grown = growing(block, held)
        items = self.items(block) if grown is None else grown.rest
        expressions = self.expressions_of(block, items, block.outputs)
        given, lines = self._inputs(block, expressions, grown)
        lines += Method(block, items, expressions, self.homes).lines()
        returned = ", ".join(expressions.names.of(output) for output in block.outputs)
        lines += [f"    return {returned}"] * bool(returned)
        loop = (
            None
            if grown is None
            else loop_of([*self._parts(block, held)], [self._calls[p.path] for p in grown.parts])
        )
        init = self.statements(block) if loop is None else [loop]
        taken = {path.split(".")[0] for path in self._parts(block, held)}
        return Written(block.path, kind, init, ", ".join(given), lines, expressions.constants, taken)

    def _inputs(self, block: Block, expressions: Expressions, grown: Growing | None) -> tuple[list[str], list[str]]:
        """Name the inputs of a block; return the names, and the lines that make the list of a growing one."""
        if block.takes_list:
            expressions.lists[block.inputs] = _LIST
            return [_LIST], []
        given = []
        for node in block.inputs:
            given.append(expressions.names.spare())
            expressions.names.input(node, given[-1])
        if grown is None:
            return given, []
        expressions.lists[grown.whole] = _LIST
        first = ", ".join(expressions.names.of(node) for node in grown.first)
        loop = ["    for layer in self.children():", f"        {_LIST}.append(layer({_LIST}))"]
        return given, [f"    {_LIST} = [{first}]", *loop]

    def items(self, block: Block) -> list[fx.Node | Block]:
        """Return what runs in a block, with what runs in small blocks inside in their place."""
        found: list[fx.Node | Block] = []
        for item in block.items:
            if isinstance(item, Block) and item.path in self._small:
                found += self.items(item)
            else:
                found.append(item)
        return found

    def _held(self, block: Block) -> list[str]:
        """Return the paths of layers, tensors and blocks that a block holds, in the traced model's order."""
        found: list[str] = []
        for path in self._inside.get(block.path, ()):
            found += self._held(self._small[path][0]) if path in self._small else [path]
        return sorted(found, key=lambda path: self._index.get(path, len(self._index)))

    def _parts(self, block: Block, held: Iterable[str]) -> dict[str, str]:
        """Return what a block holds: names in it, and paths."""
        start = len(block.path) + 1 if block.path else 0
        return {path[start:]: path for path in held}

    def statements(self, block: Block) -> list[Statement]:
        """Return what makes all that a block holds."""
        held = self._parts(block, self._held(block))
        tensors = {name: self._layout.tensors[path] for name, path in held.items() if path in self._layout.tensors}
        return statements({name: self._call(path) for name, path in held.items() if name not in tensors}, tensors)

    def _call(self, path: str) -> Call:
        layer = self._layout.layers.get(path)
        return self._calls[path] if layer is None else layer_call(layer)

    def expressions_of(
        self, block: Block, items: Sequence[fx.Node | Block], returned: Sequence[fx.Node]
    ) -> Expressions:
        """Return what writes the nodes of a block, with the tensors that it reads itself."""
        names = Variables(items, returned, self._overwriting)
        expressions = Expressions(names, block.path, self._layout.scales)
        read = (one for item in items for one in (item.inputs if isinstance(item, Block) else item.all_input_nodes))
        for node in (*read, *returned):
            if node.op == "get_attr" and node not in block.inputs:
                target = str(node.target)
                names.alias(node, "self.training" if target == "training" else expressions.within_tensor(target))
        self.expressions.append(expressions)
        return expressions

    def _chain(self, block: Block) -> Call | None:
        """Return the nn.Sequential that a block is, one part after the other; None if it is none."""
        held = self._parts(block, self._inside.get(block.path, []))
        names = row(block)
        if names is None or sorted(names) != sorted(held) or any(hasattr(nn.Sequential, name) for name in names):
            return None
        stateful = {name for name in names if self._is_stateful(held[name])}
        if block.path in self._classes and not is_placed(names, stateful):
            return None  # its class has a forward of its own, very likely
        for name in names:
            small = self._small.pop(held[name], None)
            if small is not None:
                self._make_class([small])
        return sequential({name: self._call(held[name]) for name in names}, stateful)

    def _is_stateful(self, path: str) -> bool:
        return any(is_inside(one, path) for one in (*self._layout.stateful, *self._layout.tensors))


def _name_of(path: str) -> str:
    """Return the name of a class for a block whose traced class is not known, from its path."""
    atoms = [atom for atom in path.split(".") if is_identifier(atom)]
    words = atoms[-1].rstrip("0123456789").split("_") if atoms else []
    name = "".join(word[:1].upper() + word[1:] for word in words)
    return name if is_identifier(name) else "Block"
