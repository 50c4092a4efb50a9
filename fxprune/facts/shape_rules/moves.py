"""What reshaping, permuting, splitting and joining make of shapes with unknown sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxprune.facts.shape_rules.cases import Case, Rule, Shape
from fxprune.facts.shape_rules.layers import flatten
from fxprune.facts.shape_rules.numbers import argument, known_size, known_sizes, rank_of, require_axes, size_at
from fxprune.facts.shape_rules.sizes import Size, is_size, plus, product, size_of_axis


def _permute(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    order = _numbers(node, "dims")
    if order is None:
        return None
    first = case.ranked(first, len(order))
    return first._replace(dims=tuple(first.dims[axis] for axis in order))


def _transpose(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    one, other = argument(node, 1, "dim0"), argument(node, 2, "dim1")
    if not isinstance(one, int) or not isinstance(other, int):
        return None
    first = case.last(first, -min(one, other)) if max(one, other) < 0 else case.resolved(first)
    if first.lead is not None and max(one, other) >= 0:
        return None
    sizes = list(first.dims)
    require_axes(sizes, one, other)
    sizes[one], sizes[other] = sizes[other], sizes[one]
    return first._replace(dims=tuple(sizes))


def _numbers(node: fx.Node, name: str) -> tuple[int, ...] | None:
    given = argument(node, 1, name)
    numbers: Any = given if isinstance(given, (tuple, list)) else node.args[1:]
    return tuple(numbers) if numbers and all(isinstance(one, int) for one in numbers) else None


def _reshape(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    given = argument(node, 1, "shape")
    whole = case.shapes.get(given) if isinstance(given, fx.Node) else None
    if isinstance(whole, Shape):  # x.shape
        return whole if len(node.args) == 2 else None
    parts = list(given if isinstance(given, (tuple, list)) else node.args[1:])
    if isinstance(whole, list):
        parts = whole
    if not parts or any(isinstance(one, torch.dtype) for one in parts):
        return None
    first = case.resolved(first)
    sizes: list[Any] = [known_size(one, case) if isinstance(one, fx.Node) else one for one in parts]
    open_axes = [i for i, one in enumerate(sizes) if one is None or one == -1 or not is_size(one)]
    for axis in open_axes:
        sizes[axis] = size_of_axis("axis", node, len(sizes) - axis)
    if len(open_axes) == 1 and parts[open_axes[0]] == -1 and first.lead is None:
        others = [one for i, one in enumerate(sizes) if i != open_axes[0]]
        sizes[open_axes[0]] = product((product(first.dims), product(others, -1)))
    return Shape(None, 0, tuple(sizes))


def _expand(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    given = argument(node, 1, "size")
    parts = list(given if isinstance(given, (tuple, list)) else node.args[1:])
    first = case.resolved(first)
    if not parts or first.lead is not None or len(parts) < len(first.dims):
        return None
    sizes: list[Size] = []
    for axis, one in enumerate(parts):
        size = known_size(one, case) if isinstance(one, fx.Node) else one
        old = axis - len(parts) + len(first.dims)
        if size == -1 and old >= 0:
            sizes.append(first.dims[old])
        else:
            sizes.append(
                size if size is not None and is_size(size) else size_of_axis("axis", node, len(parts) - axis)
            )
    return Shape(None, 0, tuple(sizes))


def _like_second(node: fx.Node, first: Shape, case: Case) -> Any:
    return case.shapes.get(argument(node, 1, "other"))


def _flatten_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    start, end = argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)
    return flatten(node, first, start, end, case) if isinstance(start, int) and isinstance(end, int) else None


def _unsqueeze(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axis = argument(node, 1, "dim")
    first = case.resolved(first)
    if not isinstance(axis, int) or (first.lead is not None and not -len(first.dims) - 1 <= axis < 0):
        return None
    require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return first._replace(dims=(*first.dims[:at], 1, *first.dims[at:]))


def _cat(node: fx.Node, case: Case) -> Shape | None:
    parts, axis = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    if not isinstance(parts, (tuple, list)) or not isinstance(axis, int):
        return None
    shapes = [case.shapes.get(one) if isinstance(one, fx.Node) else None for one in parts]
    if not shapes or not all(isinstance(one, Shape) for one in shapes):
        return None
    known = [case.last(one, -axis) if axis < 0 else case.resolved(one) for one in shapes if isinstance(one, Shape)]
    if len({(one.lead, one.cut, len(one.dims)) for one in known}) != 1 or (known[0].lead is not None and axis >= 0):
        return None
    sizes = list(known[0].dims)
    require_axes(sizes, axis)
    total: Size = 0
    for one in known:
        total = plus(total, one.dims[axis])
    sizes[axis] = total
    return known[0]._replace(dims=tuple(sizes))


def _stack(node: fx.Node, case: Case) -> Shape | None:
    parts, axis = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    if not isinstance(parts, (tuple, list)):
        return None
    shapes = [case.shapes.get(one) if isinstance(one, fx.Node) else None for one in parts]
    first = case.resolved(shapes[0]) if shapes and isinstance(shapes[0], Shape) else None
    if first is None or first.lead is not None or not isinstance(axis, int):
        return None
    require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return Shape(None, 0, (*first.dims[:at], len(shapes), *first.dims[at:]))


def _parts(node: fx.Node, first: Shape, case: Case) -> list[Any] | None:
    """Return the shapes of what chunk, split and unbind make."""
    name = getattr(node.target, "__name__", str(node.target))
    number = argument(node, 1, {"chunk": "chunks", "unbind": "dim"}.get(name, "split_size"), 0)
    axis = number if name == "unbind" else argument(node, 2, "dim", 0)
    if not isinstance(axis, int):
        return None
    first = case.last(first, -axis) if axis < 0 else case.resolved(first)
    if first.lead is not None and axis >= 0:
        return None
    require_axes(first.dims, axis)
    size, at = case.told(first.dims[axis]), axis % len(first.dims)
    before, behind = first.dims[:at], first.dims[at + 1 :]
    if name == "unbind":
        return [first._replace(dims=before + behind)] * size if isinstance(size, int) else None
    if isinstance(number, (list, tuple)):
        sizes = list(number) if all(isinstance(one, int) for one in number) else []
    elif isinstance(size, int) and isinstance(number, int) and number > 0:
        step = -(-size // number) if name == "chunk" else number
        sizes = [min(step, size - start) for start in range(0, size, max(step, 1))]
    else:
        return None
    return [first._replace(dims=(*before, one, *behind)) for one in sizes]


def _size_call(node: fx.Node, first: Shape, case: Case) -> Any:
    axis = argument(node, 1, "dim")
    return first if axis is None else size_at(node, first, axis, case)


def _new_tensor(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    given = node.args[1] if len(node.args) == 2 else node.args[1:]
    told = known_sizes(given, case)
    return None if told is None else Shape(None, 0, tuple(told))


RULES: dict[Any, Rule] = {
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.transpose, torch.swapaxes, "transpose", "swapaxes"), _transpose),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _reshape),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten_call),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), _unsqueeze),
    **dict.fromkeys((torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"), _parts),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), _like_second),
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones"), _new_tensor),
    **{"expand": _expand, "size": _size_call, "dim": rank_of},
}
JOINS: dict[Any, Callable[[fx.Node, Case], Shape | None]] = {torch.cat: _cat, torch.concat: _cat, torch.stack: _stack}
