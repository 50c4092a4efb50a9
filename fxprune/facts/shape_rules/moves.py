"""What reshaping, permuting, splitting and joining make of shapes with unknown sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.facts.shape_rules.cases import Case, Rule, Shape
from fxprune.facts.shape_rules.numbers import known_size, rank_of, require_axes, size_at
from fxprune.facts.shape_rules.products import as_list
from fxprune.facts.shape_rules.sizes import Size, is_size, plus, product, size_of_axis
from fxprune.ops.call import Call


def _permute(call: Call, first: Shape, case: Case) -> Shape | None:
    order = _numbers(call, "dims")
    if order is None:
        return None
    first = case.ranked(first, len(order))
    return first._replace(dims=tuple(first.dims[axis] for axis in order))


def _transpose(call: Call, first: Shape, case: Case) -> Shape | None:
    one, other = call.argument("dim0"), call.argument("dim1")
    if not isinstance(one, int) or not isinstance(other, int):
        return None
    first = case.last(first, -min(one, other)) if max(one, other) < 0 else case.resolved(first)
    if first.lead is not None and max(one, other) >= 0:
        return None
    sizes = list(first.dims)
    require_axes(sizes, one, other)
    sizes[one], sizes[other] = sizes[other], sizes[one]
    return first._replace(dims=tuple(sizes))


def _numbers(call: Call, name: str) -> tuple[int, ...] | None:
    numbers = as_list(call.argument(name))
    return tuple(numbers) if numbers and all(isinstance(one, int) for one in numbers) else None


def _reshape(call: Call, first: Shape, case: Case) -> Shape | None:
    given = call.argument("shape")
    whole = case.shapes.get(given) if isinstance(given, fx.Node) else None
    if isinstance(whole, Shape):  # x.shape
        return whole
    parts = as_list(given)
    if isinstance(whole, list):
        parts = whole
    if not parts or any(isinstance(one, torch.dtype) for one in parts):
        return None
    first = case.resolved(first)
    sizes: list[Any] = [known_size(one, case) if isinstance(one, fx.Node) else one for one in parts]
    open_axes = [i for i, one in enumerate(sizes) if one is None or one == -1 or not is_size(one)]
    for axis in open_axes:
        sizes[axis] = size_of_axis("axis", call.node, len(sizes) - axis)
    if len(open_axes) == 1 and parts[open_axes[0]] == -1 and first.lead is None:
        others = [one for i, one in enumerate(sizes) if i != open_axes[0]]
        sizes[open_axes[0]] = product((product(first.dims), product(others, -1)))
    return Shape(None, 0, tuple(sizes))


def _expand(call: Call, first: Shape, case: Case) -> Shape | None:
    given = call.argument("size")
    parts = as_list(given)
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
                size if size is not None and is_size(size) else size_of_axis("axis", call.node, len(parts) - axis)
            )
    return Shape(None, 0, tuple(sizes))


def _like_second(call: Call, first: Shape, case: Case) -> Any:
    return case.shapes.get(call.argument("other"))


def _flatten(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape with the axes from ``start_dim`` to ``end_dim`` made one."""
    start, end = call.argument("start_dim"), call.argument("end_dim")
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    first = case.resolved(first)
    if first.lead is not None:
        return case.fresh(call.node, start + 1) if start >= 0 and end == -1 else None
    rank = max(len(first.dims), 1)
    require_axes(range(rank), start, end)
    start, end = start % rank, end % rank
    if not first.dims:
        return Shape(None, 0, (1,))
    return Shape(None, 0, (*first.dims[:start], product(first.dims[start : end + 1]), *first.dims[end + 1 :]))


def _unsqueeze(call: Call, first: Shape, case: Case) -> Shape | None:
    axis = call.argument("dim")
    first = case.resolved(first)
    if not isinstance(axis, int) or (first.lead is not None and not -len(first.dims) - 1 <= axis < 0):
        return None
    require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return first._replace(dims=(*first.dims[:at], 1, *first.dims[at:]))


def _cat(call: Call, first: Any, case: Case) -> Shape | None:
    parts, axis = call.argument("tensors"), call.argument("dim")
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


def _stack(call: Call, first: Any, case: Case) -> Shape | None:
    parts, axis = call.argument("tensors"), call.argument("dim")
    if not isinstance(parts, (tuple, list)):
        return None
    shapes = [case.shapes.get(one) if isinstance(one, fx.Node) else None for one in parts]
    first = case.resolved(shapes[0]) if shapes and isinstance(shapes[0], Shape) else None
    if first is None or first.lead is not None or not isinstance(axis, int):
        return None
    require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return Shape(None, 0, (*first.dims[:at], len(shapes), *first.dims[at:]))


def _parts(call: Call, first: Shape, case: Case) -> list[Any] | None:
    """Return the shapes of what chunk, split and unbind make."""
    assert call.op is not None
    name, axis = call.op.name, call.argument("dim")
    number = call.argument(call.op.parameters[1].name)
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


def _size_call(call: Call, first: Shape, case: Case) -> Any:
    axis = call.argument("dim")
    return first if axis is None else size_at(call.node, first, axis, case)


def _rank(call: Call, first: Shape, case: Case) -> Any:
    return rank_of(first, case)


RULES: dict[str, Rule] = {
    **{"permute": _permute, "transpose": _transpose, "reshape": _reshape, "flatten": _flatten},
    **{"unsqueeze": _unsqueeze, "chunk": _parts, "split": _parts, "unbind": _parts, "expand": _expand},
    **{"other": _like_second, "size": _size_call, "rank": _rank, "cat": _cat, "stack": _stack},
}
"""By the shape that rows of the table of ops name."""
