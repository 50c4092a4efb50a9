"""The blocks of a graph: parts that the traced model's own modules computed, each one call.

A block is a module path whose nodes follow each other: it takes values from before, and others read what it makes.
Where a module's nodes lie apart, or an autocast begins inside and ends outside, there is no block, and the module's
nodes stand in the one around it. Blocks are parts of the graph's own order, so that nothing is computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx

from fxprune.ir.autocast import ENTER_AUTOCAST, EXIT_AUTOCAST
from fxprune.ir.node_targets import is_sayable
from fxprune.ir.nodes import module_path

_MOST_VALUES = 4  # that a block takes, or returns


@dataclass(eq=False)
class Block:
    """Nodes and blocks in the order in which they run; ``path`` is "" for the whole graph.

    It takes ``inputs`` and returns ``outputs``. If it ``takes_list``, its inputs are one list that one node reads.
    """

    path: str
    items: list[fx.Node | Block] = field(default_factory=list)
    inputs: tuple[fx.Node, ...] = ()
    outputs: tuple[fx.Node, ...] = ()
    takes_list: bool = False

    def nodes(self) -> Iterator[fx.Node]:
        """Yield every node inside, in order."""
        for item in self.items:
            if isinstance(item, Block):
                yield from item.nodes()
            else:
                yield item

    def blocks(self) -> Iterator[Block]:
        """Yield every block inside, those that are inside others first."""
        for item in self.items:
            if isinstance(item, Block):
                yield from item.blocks()
                yield item


def owner(path: str) -> str:
    """Return the path of the module that what stands at ``path`` belongs to."""
    return path.rpartition(".")[0]


def is_inside(path: str, outer: str) -> bool:
    """Say whether ``path`` is ``outer`` or below it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def home(node: fx.Node, layers: Collection[str]) -> str:
    """Return the path of the module whose forward ``node`` belongs to: never that of a layer."""
    path = owner(str(node.target)) if node.op in ("call_module", "get_attr") else module_path(node)
    atoms = path.split(".") if path else []
    inside = next((depth for depth in range(1, len(atoms) + 1) if ".".join(atoms[:depth]) in layers), None)
    return path if inside is None else ".".join(atoms[: inside - 1])


def steps(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that are statements of a forward, in order."""
    return [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]


def block_tree(graph: fx.Graph, homes: Callable[[fx.Node], str], barred: Collection[str] = ()) -> Block:
    """Return ``graph`` as a block of blocks; none of the ``barred`` paths is one."""
    nodes = steps(graph)
    paths = {node: homes(node) for node in graph.nodes}
    found = _Finder(nodes, paths)
    root = Block("", found.items("", nodes, found.runs.keys() - set(barred)))
    root.inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
    return root


class _Finder:
    """Where the nodes of each module are."""

    def __init__(self, nodes: Sequence[fx.Node], paths: dict[fx.Node, str]) -> None:
        self.paths = paths
        self.runs: dict[str, int] = {}
        self._order = {node: index for index, node in enumerate(nodes)}
        last = ""
        for node in nodes:
            path = here = paths[node]
            while here:
                if not is_inside(last, here):
                    self.runs[here] = self.runs.get(here, 0) + 1
                here = owner(here)
            last = path

    def items(self, outer: str, nodes: Sequence[fx.Node], allowed: Collection[str]) -> list[fx.Node | Block]:
        """Return what a block at ``outer`` consists of, given its nodes."""
        found: list[fx.Node | Block] = []
        at = 0
        while at < len(nodes):
            path = self.paths[nodes[at]]
            if path == outer:
                found.append(nodes[at])
                at += 1
                continue
            child = _child(path, outer)
            end = at
            while end < len(nodes) and is_inside(self.paths[nodes[end]], child):
                end += 1
            inner = self.items(child, nodes[at:end], allowed)
            block = self._block(child, inner, nodes[at:end]) if child in allowed else None
            found += inner if block is None else [block]
            at = end
        return found

    def _block(self, path: str, items: list[fx.Node | Block], nodes: Sequence[fx.Node]) -> Block | None:
        """Return the block at ``path``; None if it is none."""
        if self.runs[path] > 1 or not _is_balanced(nodes) or not all(is_sayable(atom) for atom in path.split(".")):
            return None
        first, last = self._order[nodes[0]], self._order[nodes[-1]]
        reads = dict.fromkeys(one for node in nodes for one in node.all_input_nodes)
        inputs = tuple(one for one in reads if self._is_given(one, path, first))
        outputs = tuple(n for n in nodes if any(self._order.get(user, last + 1) > last for user in n.users))
        takes_list = _takes_list(items, inputs)
        if (len(inputs) > _MOST_VALUES and not takes_list) or len(outputs) > _MOST_VALUES or not inputs:
            return None
        return Block(path, items, inputs, outputs, takes_list)

    def _is_given(self, node: fx.Node, path: str, first: int) -> bool:
        if node.op == "get_attr":
            return node.target != "training" and not is_inside(self.paths[node], path)
        return self._order.get(node, -1) < first


def _child(path: str, outer: str) -> str:
    start = len(outer) + 1 if outer else 0
    end = path.find(".", start)
    return path if end < 0 else path[:end]


def _is_balanced(nodes: Sequence[fx.Node]) -> bool:
    """Say whether every autocast that begins or ends among ``nodes`` does both."""
    entered = {node for node in nodes if node.target is ENTER_AUTOCAST}
    left = {node.args[0] for node in nodes if node.target is EXIT_AUTOCAST}
    return entered == left


def _takes_list(items: Sequence[fx.Node | Block], inputs: tuple[fx.Node, ...]) -> bool:
    """Say whether the first item alone reads ``inputs``, and as one list."""
    first = items[0]
    if isinstance(first, Block) or not first.args or not isinstance(first.args[0], list):
        return False
    return (
        tuple(first.args[0]) == inputs
        and tuple(first.all_input_nodes) == inputs
        and all(inputs_of(item).isdisjoint(inputs) for item in items[1:])
    )


def row(block: Block) -> list[str] | None:
    """Return the names of layers and blocks that each take what the one before returns; None if it is no such row."""
    if len(block.inputs) != 1 or len(block.outputs) != 1 or block.takes_list:
        return None
    value, names = block.inputs[0], []
    for item in block.items:
        if isinstance(item, Block):
            fits = item.inputs == (value,) and not item.takes_list and len(item.outputs) == 1
            path, value = item.path, item.outputs[0] if item.outputs else value
        else:
            fits = item.op == "call_module" and item.args == (value,) and not item.kwargs
            path, value = str(item.target), item
        if not fits or owner(path) != block.path:
            return None
        names.append(path[len(block.path) + 1 :])
    return names if value is block.outputs[0] else None


def inputs_of(item: fx.Node | Block) -> set[fx.Node]:
    """Return the values that a node or a block reads."""
    return set(item.inputs if isinstance(item, Block) else item.all_input_nodes)
