"""What functions that compute (convolve, pool, reduce, multiply matrices) make of shapes with unknown sizes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.facts.shape_rules.cases import Case, Refused, Rule, Shape
from fxprune.facts.shape_rules.layers import ADAPTIVE, adaptive, ending, linear, normalized, pooled, slid
from fxprune.facts.shape_rules.numbers import argument, known_size, require_axes
from fxprune.facts.shape_rules.sizes import Size, broadcast, is_size, plus

_POOL_FUNCTIONS: dict[Any, tuple[int, bool]] = {  # how many axes they pool, and whether they take a dilation
    **{functional.max_pool1d: (1, True), functional.max_pool2d: (2, True), functional.max_pool3d: (3, True)},
    **{functional.avg_pool1d: (1, False), functional.avg_pool2d: (2, False), functional.avg_pool3d: (3, False)},
}
_CONV_FUNCTIONS: dict[Any, int] = {
    **{functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3},
    **{torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3},
}
_NORMS = {torch.norm, "norm"}
_REDUCING = {torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin", *_NORMS}


def _three(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    """Return the shape of a + b * c."""
    second, third = (case.shapes.get(argument(node, i, f"tensor{i}")) for i in (1, 2))
    if not isinstance(second, Shape) or not isinstance(third, Shape):
        return None
    return case.wide(node, first, case.wide(node, second, third))


def _conv_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axes, weight = _CONV_FUNCTIONS[node.target], case.shapes.get(argument(node, 1, "weight"))
    sizes = weight.dims if isinstance(weight, Shape) else ()
    numbers = [argument(node, 3, "stride", 1), argument(node, 4, "padding", 0), argument(node, 5, "dilation", 1)]
    each = [(one,) * axes if isinstance(one, int) else one for one in numbers]
    if len(sizes) != axes + 2 or not all(isinstance(one, (tuple, list)) and len(one) == axes for one in each):
        return None
    if not all(isinstance(number, int) for one in (sizes, *each) for number in one):
        return None
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    groups = argument(node, 6, "groups", 1)
    if isinstance(groups, int):
        case.require(first.dims[-axes - 1], sizes[1] * groups)  # type: ignore[arg-type]
    geometry = zip(first.dims[-axes:], sizes[2:], *each, strict=True)
    return ending(first, sizes[0], *(slid(*one) for one in geometry))


def _pool_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axes, is_max = _POOL_FUNCTIONS[node.target]
    kernel, stride, padding = (argument(node, 1 + i, n) for i, n in enumerate(("kernel_size", "stride", "padding")))
    dilation, ceil = (argument(node, 4, "dilation", 1), 5) if is_max else (1, 4)
    rest = [argument(node, ceil, "ceil_mode", False), argument(node, 6, "return_indices", False) if is_max else False]
    if rest != [False, False]:
        return None
    numbers = (kernel, kernel if stride is None else stride, 0 if padding is None else padding, dilation)
    return pooled(first, axes, numbers, case)


def _layer_norm_call(node: fx.Node, first: Shape, case: Case) -> Shape:
    return normalized(first, argument(node, 1, "normalized_shape"), case)


def _linear_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    weight = case.shapes.get(argument(node, 1, "weight"))
    if not isinstance(weight, Shape) or len(weight.dims) != 2 or not all(isinstance(n, int) for n in weight.dims):
        return None
    return linear(first, weight.dims[1], weight.dims[0], case)  # type: ignore[arg-type]


def _adaptive_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    sizes = argument(node, 1, "output_size")
    parts = sizes if isinstance(sizes, (tuple, list)) else [sizes]
    known = all(isinstance(one, int) or one is None for one in parts)
    return adaptive(sizes, ADAPTIVE[node.target], first, case) if known else None


def _pad(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    amounts = argument(node, 1, "pad")
    if not isinstance(amounts, (tuple, list)) or len(amounts) % 2:
        return None
    more = [known_size(one, case) for one in amounts]
    if any(one is None for one in more):
        return None
    count = len(more) // 2
    first = case.last(first, count)
    sizes = list(first.dims)
    for axis in range(count):
        for amount in more[2 * axis : 2 * axis + 2]:
            sizes[-1 - axis] = plus(sizes[-1 - axis], amount)  # type: ignore[arg-type]
    return first._replace(dims=tuple(sizes))


def _interpolate(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    wanted = argument(node, 1, "size")
    wanted = case.shapes.get(wanted) if isinstance(wanted, fx.Node) else wanted
    if not isinstance(wanted, (tuple, list)) or isinstance(wanted, Shape):
        return None
    sizes = [known_size(one, case) if isinstance(one, fx.Node) else one for one in wanted]
    told: list[Size] = [one for one in sizes if one is not None and is_size(one)]
    if len(told) != len(sizes):
        return None
    return ending(case.last(case.among(first, len(told) + 2), len(told)), *told)


def _reduce(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    at = 2 if node.target in _NORMS else 1  # behind the order of a norm
    axes, keeps = argument(node, at, "dim"), argument(node, at + 1, "keepdim", False)
    axes = [axes] if isinstance(axes, int) else axes
    if not isinstance(axes, (tuple, list)) or not axes or not all(isinstance(one, int) for one in axes):
        return Shape(None, 0, ()) if axes is None and not node.kwargs else None
    if not isinstance(keeps, bool):
        return None
    first = case.last(first, -min(axes)) if max(axes) < 0 else case.resolved(first)
    if first.lead is not None and max(axes) >= 0:
        return None
    require_axes(first.dims, *axes)
    gone = {axis % len(first.dims) for axis in axes}
    kept = [1 if axis in gone else size for axis, size in enumerate(first.dims) if keeps or axis not in gone]
    return first._replace(dims=tuple(kept))


def einsum(node: fx.Node, case: Case) -> Shape | None:
    """Return the shape that an equation with named axes makes; None if it is not spelt out."""
    terms, *given = node.args
    operands = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    if not isinstance(terms, str) or "." in terms or "->" not in terms:
        return None
    inputs, _, output = terms.replace(" ", "").partition("->")
    sizes: dict[str, Size] = {}
    for axes, one in zip(inputs.split(","), operands, strict=True):
        shape = case.shapes.get(one)
        if not isinstance(shape, Shape):
            return None
        for axis, size in zip(axes, case.ranked(shape, len(axes)).dims, strict=True):
            both = broadcast(sizes.get(axis, 1), size)
            if both is None:
                raise Refused
            sizes[axis] = both
    return Shape(None, 0, tuple(sizes[axis] for axis in output))


def _matmul(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    second = case.shapes.get(argument(node, 1, "other"))
    if not isinstance(second, Shape):
        return None
    first, second = case.resolved(first), case.resolved(second)
    if first.lead is not None or second.lead is not None or min(len(first.dims), len(second.dims)) < 2:
        return None
    batch = case.wide(node, Shape(None, 0, first.dims[:-2]), Shape(None, 0, second.dims[:-2]))
    return batch._replace(dims=(*batch.dims, first.dims[-2], second.dims[-1]))


def _attention(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    value = case.shapes.get(argument(node, 2, "value"))
    key = case.shapes.get(argument(node, 1, "key"))
    if not isinstance(value, Shape) or not isinstance(key, Shape):
        return None
    first, key, value = case.resolved(first), case.resolved(key), case.resolved(value)
    same = first.lead is None and value.lead is None and key.lead is None and key.dims[:-2] == first.dims[:-2]
    if not same or first.dims[:-2] != value.dims[:-2] or len(first.dims) < 2:
        return None
    return ending(first, value.dims[-1])


RULES: dict[Any, Rule] = {
    **dict.fromkeys(_REDUCING, _reduce),
    **dict.fromkeys(_CONV_FUNCTIONS, _conv_call),
    **dict.fromkeys(_POOL_FUNCTIONS, _pool_call),
    **{one: _adaptive_call for one in ADAPTIVE if not isinstance(one, type)},
    **dict.fromkeys((torch.addcmul, torch.addcdiv, "addcmul", "addcdiv"), _three),
    **dict.fromkeys((torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm"), _matmul),
    **{functional.linear: _linear_call, functional.layer_norm: _layer_norm_call},
    **{functional.pad: _pad, functional.interpolate: _interpolate},
    functional.scaled_dot_product_attention: _attention,
}
