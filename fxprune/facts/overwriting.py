"""Which ReLUs and sums may overwrite one of their inputs, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. A network that runs needs no memory for both
sides of a ReLU or a sum where nothing else reads the input, and what makes that does not need it for its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.shapes import same_shape
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.call import Call, operands

_RELUS = ("relu", "relu6")
_Makers = Mapping[fx.Node, str | None]


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the calls of ReLUs, layers and functions, and the sums that may overwrite an input, with that input.

    The input is new memory that nothing else reads. A layer at several sites overwrites its input at all of them or
    at none. A sum has the shape, the dtype and the layout of what it overwrites, whatever the size of the inputs, and
    under autocast too: y += x rounds to the dtype of y, where y + x has the wider one. Where the grad mode changes,
    none is found: what is overwritten without gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return {}
    shapes, makers = EqualShapes(graph), _makers(graph)
    found = {node: source for node in graph.nodes if (source := _source(node, shapes, makers)) is not None}
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node: source for node, source in found.items() if called_module(node) not in kept}


def is_sum(node: fx.Node) -> bool:
    """Say whether ``node`` is a sum of two values and nothing else, as source writes it with a plus."""
    terms = operands(node, "add") if node.op == "call_function" else None
    return terms is not None and all(isinstance(one, fx.Node) for one in terms)


def _makers(graph: fx.Graph) -> _Makers:
    """Return the kind of layer that fixed the dtype and the layout of each value; None if that is not known.

    Values of one shape that layers of one kind made have one dtype, under autocast too, and one layout.
    """
    found: dict[fx.Node, str | None] = {}
    for node in graph.nodes:
        call = Call(node)
        op = call.claims
        if op is None:
            found[node] = None
        elif op.dtype == "lower":
            found[node] = op.kind
        elif op.dtype == "widest":
            made = {found[one] for one in node.all_input_nodes}
            by_number = len(node.all_input_nodes) == 1 and call.argument("input") is not call.argument("other")
            found[node] = made.pop() if len(made) == 1 and (by_number or is_sum(node)) else None
        else:
            found[node] = found[call.input] if op.dtype == "keeps" and call.input is not None else None
    return found


def _source(node: fx.Node, shapes: EqualShapes, makers: _Makers) -> fx.Node | None:
    if _is_relu(node):
        return next(filter(_is_new_and_read_once, node.all_input_nodes), None)
    if not is_sum(node):
        return None
    first, second = node.all_input_nodes if len(node.all_input_nodes) == 2 else (None, None)
    if first is None or second is None or makers[first] is None or makers[first] != makers[second]:
        return None
    chosen = next(filter(_is_new_and_read_once, (first, second)), None)
    return chosen if same_shape(first, second) and chosen is not None and shapes.equal(first, second) else None


def _is_relu(node: fx.Node) -> bool:
    op = Call(node).exact
    return op is not None and op.name in _RELUS and "inplace" in op.places


def _is_new_and_read_once(node: fx.Node) -> bool:
    op = Call(node).exact
    return op is not None and op.fresh and op.unsaved and only_user(node) is not None
