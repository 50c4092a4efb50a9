"""The convs of residual blocks: of each sum of two paths those of the longer one.

    x + conv(relu(conv(x)))            a basic block: its convs are these two
    P(x) + conv(relu(conv(x)))         likewise: the shortcut may have a conv of its own
    x + 1x1(k x k(1x1(x)))             a bottleneck: it begins and ends with 1x1 convs

Other than a :class:`~fxprune.structures.branches.Branch` a block need not be removable.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from fxprune.facts.shapes import is_floating, same_shape
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call, is_conv, operands


@dataclass(frozen=True, eq=False)
class Block:
    """A residual block: the sum at its end, and the convs of its longer path, in graph order."""

    addition: fx.Node
    convs: tuple[fx.Node, ...]

    @property
    def is_bottleneck(self) -> bool:
        """Whether it begins and ends with 1x1 convs, and has a larger one between them."""
        pointwise = [is_pointwise(one) for one in self.convs]
        return len(pointwise) > 2 and pointwise[0] and pointwise[-1] and not all(pointwise)


def residual_blocks(graph_module: fx.GraphModule) -> list[Block]:
    """Return the residual blocks of a graph, in its order; a conv is of the innermost one that it lies in."""
    nodes = graph_module.graph.nodes
    position = {node: place for place, node in enumerate(nodes)}
    found: list[Block] = []
    known: set[fx.Node] = set()
    for node in nodes:
        terms = operands(node, "add")
        if terms is None or not is_floating(node) or terms[0] is terms[1]:
            continue
        if not all(isinstance(one, fx.Node) and same_shape(one, node) for one in terms):
            continue
        paths = _apart(terms, position)
        convs = [[one for one in path if is_conv(one) and one not in known] for path in paths]
        longer = max(convs, key=len)
        if len(convs[0]) != len(convs[1]):  # of two alike neither is the shortcut
            found.append(Block(node, tuple(longer)))
            known.update(longer)
    return found


def is_pointwise(node: fx.Node) -> bool:
    """Say whether a conv has a kernel of one element."""
    return all(size == 1 for size in kernel_of(node))


def kernel_of(node: fx.Node) -> tuple[int, ...]:
    """Return the size of a conv's kernel along each axis of space; () where its weight is unknown."""
    module = called_module(node)
    if module is not None:
        return tuple(module.kernel_size)  # type: ignore[arg-type]  # of a conv
    weight, owner = Call(node).argument("weight"), node.graph.owning_module
    meta = weight.meta.get("tensor_meta") if isinstance(weight, fx.Node) else None
    if meta is not None:
        return tuple(meta.shape[2:])
    if isinstance(weight, fx.Node) and weight.op == "get_attr" and owner is not None:
        return tuple(attribute(owner, str(weight.target)).shape[2:])
    return ()


def _apart(terms: tuple[fx.Node, fx.Node], position: dict[fx.Node, int]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return for each of two nodes what it alone is computed from, back to what both are; in graph order."""
    sides = {terms[0]: 1}
    sides[terms[1]] = sides.get(terms[1], 0) | 2
    waiting = [(-position[node], node) for node in sides]
    heapq.heapify(waiting)
    apart = len(waiting)  # of those that wait
    found: tuple[list[fx.Node], list[fx.Node]] = ([], [])
    while apart:
        _, node = heapq.heappop(waiting)
        side = sides[node]
        apart -= side != 3
        if side != 3:
            found[side - 1].append(node)
        for source in _computed(node):
            was = sides.get(source, 0)
            sides[source] = was | side
            if not was:
                heapq.heappush(waiting, (-position[source], source))
            apart += (sides[source] != 3) - (was not in (0, 3))
    return found[0][::-1], found[1][::-1]


def _computed(node: fx.Node) -> Iterator[fx.Node]:
    return (source for source in node.all_input_nodes if source.op not in ("get_attr", "placeholder"))
