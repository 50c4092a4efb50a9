"""What Python does with shapes, sizes, tuples and indices, in symbols."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.facts.shape_rules.cases import Case, Refused, Shape
from fxprune.facts.shape_rules.sizes import Product, Size, size_of_axis, sliced


def known_size(value: Any, case: Case) -> Size | None:
    """Return the size that an argument is; None if it is none that is known."""
    if isinstance(value, fx.Node):
        value = case.shapes.get(value)
    return value if isinstance(value, (int, Product)) and not isinstance(value, bool) else None


def known_sizes(value: Any, case: Case) -> list[Size] | None:
    """Return the sizes that a tuple or a list holds, or a node that computes one; None if some are not known."""
    found = case.shapes.get(value) if isinstance(value, fx.Node) else value
    if isinstance(found, Shape) and reads_shape(value):
        found = found.dims if found.lead is None else None
    if not isinstance(found, (tuple, list)) or isinstance(found, (Shape, Product)):
        return None
    told = [known_size(one, case) for one in found]
    return [one for one in told if one is not None] if None not in told else None


def reads_shape(node: Any) -> bool:
    """Say whether ``node`` reads a shape, or a size of it."""
    if node.op == "call_method":
        return bool(node.target == "size")
    return node.target is getattr and bool(node.args[1] == "shape")


def require_axes(sizes: Any, *axes: int) -> None:
    """Raise Refused if one of ``axes`` is none of so many."""
    if any(not -len(sizes) <= axis < len(sizes) for axis in axes):
        raise Refused


def size_at(node: fx.Node, shape: Shape, index: Any, case: Case) -> Size | None:
    """Return the size of one axis of ``shape``; None if which one is not known."""
    if not isinstance(index, int):
        return None
    shape = case.last(shape, -index) if index < 0 else case.resolved(shape)
    if shape.lead is not None and index >= 0:
        return size_of_axis("number", node)
    require_axes(shape.dims, index)
    return shape.dims[index]


def _some_sizes(shape: Shape, index: slice, case: Case) -> list[Size] | None:
    shape = case.resolved(shape)
    return list(shape.dims[index]) if shape.lead is None else None


def rank_of(first: Shape, case: Case) -> Any:
    """Return how many axes a value has, as a number or in symbols."""
    rank = case.resolved(first).rank
    return size_of_axis("rank", first.lead, len(first.dims) - first.cut) if rank is None else rank


def of_python(node: fx.Node, first: Any, case: Case) -> Any:
    """Return what Python computes from shapes: attributes, items, comparisons, assertions."""
    if node.target is getattr:
        name = node.args[1]
        if not isinstance(first, Shape):
            return None
        return first if name == "shape" else rank_of(first, case) if name == "ndim" else None
    if node.target is len:
        is_shape = isinstance(first, Shape) and reads_shape(node.args[0])
        return rank_of(first, case) if is_shape else None
    if node.target is operator.eq:
        sides = [known_size(one, case) for one in node.args]
        return None if None in sides else ["equal", *sides]
    if node.target is torch._assert:
        if isinstance(first, list) and first[:1] == ["equal"]:
            _assert_equal(first[1], first[2], case)
        return None
    source, index = node.args
    if isinstance(first, list):
        return first[index] if isinstance(index, int) and -len(first) <= index < len(first) else None
    if not isinstance(first, Shape) or not isinstance(source, fx.Node):
        return None
    if reads_shape(source):
        if isinstance(index, slice):
            return _some_sizes(first, index, case)
        return size_at(node, first, index, case)
    return _gathered(first, index, case) if isinstance(index, fx.Node) else _indexed(node, first, index, case)


def _assert_equal(first: Size, second: Size, case: Case) -> None:
    case.require(first, second)
    case.require(second, first)


def _gathered(first: Shape, index: fx.Node, case: Case) -> Shape | None:
    """Return the shape of the rows at the whole numbers that a tensor holds; None if it holds others, or a mask."""
    places, meta = case.shapes.get(index), index.meta.get("tensor_meta")
    if not isinstance(places, Shape) or getattr(meta, "dtype", None) not in (torch.int32, torch.int64):
        return None
    first, places = case.last(first, 1), case.resolved(places)
    if first.lead is not None or places.lead is not None:
        return None
    return Shape(None, 0, (*places.dims, *first.dims[1:]))


def _indexed(node: fx.Node, first: Shape, index: Any, case: Case) -> Shape | None:
    items = list(index) if isinstance(index, tuple) else [index]
    first = case.resolved(first)
    if any(not (one is None or one is Ellipsis or isinstance(one, (int, slice))) for one in items):
        return None
    if any(isinstance(one, bool) for one in items) or (first.lead is not None and Ellipsis not in items):
        return None
    taken = sum(isinstance(one, (int, slice)) for one in items)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        if first.lead is not None:
            return None
        items[at : at + 1] = [slice(None)] * (len(first.dims) - taken)
    if taken > len(first.dims):
        raise Refused
    left, sizes = list(first.dims), list[Size]()
    for one in items:
        if one is None:
            sizes.append(1)
        elif isinstance(one, slice):
            bounds = [
                known_size(part, case) if part is not None else None for part in (one.start, one.stop, one.step)
            ]
            given = (one.start, one.stop, one.step)
            if any(bound is None and part is not None for bound, part in zip(bounds, given, strict=True)):
                return None
            sizes.append(sliced(left.pop(0), *bounds))
        else:
            left.pop(0)
    return Shape(None, 0, (*sizes, *left))


def of_tuples(node: fx.Node, case: Case) -> list[Size] | None:
    """Return the sizes in a sum of tuples, or in a tuple that is repeated a known number of times."""
    sides = [known_sizes(one, case) for one in node.args]
    if node.target is operator.add:
        return None if sides[0] is None or sides[1] is None else sides[0] + sides[1]
    parts, times = (sides[0], node.args[1]) if sides[0] is not None else (sides[1], node.args[0])
    count = known_size(times, case)
    return parts * count if parts is not None and isinstance(count, int) else None
