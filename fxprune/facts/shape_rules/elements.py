"""Shapes of what works on each element, or on axes as a whole: arithmetic, norms, reductions, new tensors."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxprune.facts.shape_rules.cases import Case, Shape
from fxprune.facts.shape_rules.numbers import known_size, known_sizes, require_axes
from fxprune.facts.shape_rules.sizes import Product, is_size
from fxprune.ops.call import Call

_RANKS_OF_NORM: dict[Any, tuple[int, ...]] = {
    **{nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,), nn.SyncBatchNorm: (2, 3, 4, 5, 6)}
}


def same(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of an op of each element; None if it reads other values, which may spread it."""
    op, node = call.op, call.node
    assert op is not None
    if len(node.all_input_nodes) > 1 and op.kind in ("elementwise", "random") and not op.weights:
        return None
    return first


def widened(call: Call, first: Any, case: Case) -> Shape | None:
    """Return the shape of operands that are broadcast to each other; None if one is not known."""
    assert call.op is not None
    return broadcast(call.node, [call.argument(one.name) for one in call.op.parameters[: call.op.inputs]], case)


def broadcast(node: fx.Node, operands: list[Any], case: Case) -> Shape | None:
    """Return the shape of ``operands``, nodes and numbers, broadcast to each other; None if one is not known."""
    found: Shape | None = None
    for one in operands:
        operand = case.shapes.get(one) if isinstance(one, fx.Node) else one
        if isinstance(operand, (int, float, Product)):
            operand = Shape(None, 0, ())
        if not isinstance(operand, Shape):
            return None
        found = operand if found is None else case.wide(node, found, operand)
    return found


def norm(call: Call, first: Shape, case: Case) -> Shape:
    """Return the shape of what a norm returns."""
    if call.op is not None and "normalized_shape" in call.op.places:
        return _normalized(first, call.argument("normalized_shape"), case)
    ranks = _RANKS_OF_NORM.get(type(call.module), ())
    first = case.ranked(first, ranks[0]) if len(ranks) == 1 else case.among(first, *ranks) if ranks else first
    if ranks and first.lead is None:
        case.require(first.dims[1], call.module.num_features)
    return first


def _normalized(first: Shape, sizes: Any, case: Case) -> Shape:
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(size, int) for size in sizes):
        return first
    first = case.last(first, len(sizes))
    for size, number in zip(first.dims[-len(sizes) :], sizes, strict=True):
        case.require(size, number)
    return first


def reduced(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape without the axes that are reduced, or with a single position in their place."""
    axes, keeps = call.argument("dim"), call.argument("keepdim")
    axes = [axes] if isinstance(axes, int) else axes
    if not isinstance(axes, (tuple, list)) or not axes or not all(isinstance(one, int) for one in axes):
        return Shape(None, 0, ()) if axes is None and keeps is False else None
    if not isinstance(keeps, bool):
        return None
    first = case.last(first, -min(axes)) if max(axes) < 0 else case.resolved(first)
    if first.lead is not None and max(axes) >= 0:
        return None
    require_axes(first.dims, *axes)
    gone = {axis % len(first.dims) for axis in axes}
    kept = [1 if axis in gone else size for axis, size in enumerate(first.dims) if keeps or axis not in gone]
    return first._replace(dims=tuple(kept))


def new(call: Call, first: Any, case: Case) -> Shape | None:
    """Return the shape that is asked for in sizes."""
    if first is not None and call.input is not None:  # x.new_zeros(sizes)
        told = known_sizes(call.argument("size"), case)
        return None if told is None else Shape(None, 0, tuple(told))
    given = call.argument("size")
    if not isinstance(given, (tuple, list)) or "size" in call.node.kwargs:
        return None
    sizes = [size for one in given if (size := known_size(one, case)) is not None and is_size(size)]
    return Shape(None, 0, tuple(sizes)) if len(sizes) == len(given) else None
