"""What layers make of shapes with unknown sizes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import fx, nn
from torch.nn import functional

from fxprune.facts.shape_rules.cases import Case, Shape
from fxprune.facts.shape_rules.numbers import require_axes
from fxprune.facts.shape_rules.sizes import Product, Size, plus, product, windowed
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.applied import Applied
from fxprune.ops.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES

_LIKE_INPUT: set[type[nn.Module]] = {
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Identity, nn.Softmax, nn.GELU),
    *(nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Mish, nn.Hardtanh, nn.Softplus, nn.SELU, nn.CELU, nn.LogSoftmax),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Softsign, nn.LocalResponseNorm),
}
_POOLS: dict[type[nn.Module], int] = {
    **{nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
}
ADAPTIVE: dict[Any, int] = {
    **{nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3},
    **{nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3},
    **{functional.adaptive_avg_pool1d: 1, functional.adaptive_avg_pool2d: 2, functional.adaptive_avg_pool3d: 3},
}
_NORM_RANKS: dict[type[nn.Module], tuple[int, ...]] = {
    **{nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,), nn.SyncBatchNorm: (2, 3, 4, 5, 6)}
}


def of_module(node: fx.Node, module: nn.Module, first: Any, case: Case) -> Any:
    """Return what a layer makes of the shape of its first argument; None if that is not known."""
    if isinstance(first, Shape) and type(module) in _LIKE_INPUT:
        return first
    if isinstance(module, ScaledLayer) and module.operands > 1:
        return widened(node, first, case)
    if not isinstance(first, Shape):
        return None
    if type(module) in _NORM_RANKS:
        return _norm(module, first, case)
    if isinstance(module, ScaledLayer):
        return functools.reduce(lambda shape, part: of_module(node, part, shape, case), module.children(), first)
    if isinstance(module, CONV_CLASSES):
        return _conv(module, first, case)
    if isinstance(module, TRANSPOSED_CLASSES):
        return _transposed(module, first, case) if len(node.args) == 1 and not node.kwargs else None
    if type(module) is nn.Linear:
        return linear(first, module.in_features, module.out_features, case)
    if isinstance(module, Applied) and module.keeps_shape:
        return first
    if type(module) is nn.LayerNorm:
        return normalized(first, module.normalized_shape, case)
    if type(module) is nn.GroupNorm:
        return first
    if type(module) in _POOLS:
        return _pool(module, _POOLS[type(module)], first, case)
    if type(module) in ADAPTIVE and not getattr(module, "return_indices", False):
        return adaptive(module.output_size, ADAPTIVE[type(module)], first, case)
    if type(module) is nn.Flatten:
        return flatten(node, first, module.start_dim, module.end_dim, case)
    if type(module) is nn.MultiheadAttention:
        return [case.among(first, 2, 3), None]
    return None


def _conv(conv: Any, first: Shape, case: Case) -> Shape:
    axes = len(conv.kernel_size)
    paddings = (None,) * axes if conv.padding == "same" else (0,) * axes if conv.padding == "valid" else conv.padding
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    case.require(first.dims[-axes - 1], conv.in_channels)
    geometry = zip(first.dims[-axes:], conv.kernel_size, conv.stride, paddings, conv.dilation, strict=True)
    moved = [n if p is None else slid(n, k, s, p, d) for n, k, s, p, d in geometry]
    return ending(first, conv.out_channels, *moved)


def slid(size: Size, kernel: int, stride: int, padding: int, dilation: int) -> Size:
    """Return at how many positions a layer's window stands."""
    return windowed(size, stride, 2 * padding - dilation * (kernel - 1) - 1)


def ending(shape: Shape, *sizes: Size) -> Shape:
    """Return ``shape`` with other last sizes."""
    return shape._replace(dims=(*shape.dims[: -len(sizes)], *sizes))


def _transposed(conv: Any, first: Shape, case: Case) -> Shape:
    axes = len(conv.kernel_size)
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    case.require(first.dims[-axes - 1], conv.in_channels)
    sizes: list[Size] = []
    geometry = (conv.stride, conv.padding, conv.dilation, conv.kernel_size, conv.output_padding)
    for n, s, p, d, k, more in zip(first.dims[-axes:], *geometry, strict=True):
        sizes.append(plus(product((n, s)), d * (k - 1) + 1 + more - 2 * p - s))
    return ending(first, conv.out_channels, *sizes)


def _norm(norm: Any, first: Shape, case: Case) -> Shape:
    ranks = _NORM_RANKS.get(type(norm), ())
    first = case.ranked(first, ranks[0]) if len(ranks) == 1 else case.among(first, *ranks) if ranks else first
    if first.lead is None:
        case.require(first.dims[1], norm.num_features)
    return first


def linear(first: Shape, inputs: int, outputs: int, case: Case) -> Shape:
    """Return the shape of a linear layer's value."""
    first = case.last(first, 1)
    case.require(first.dims[-1], inputs)
    return ending(first, outputs)


def normalized(first: Shape, sizes: Any, case: Case) -> Shape:
    """Return the shape of what a norm over the last axes, of the given sizes, returns."""
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(size, int) for size in sizes):
        return first
    first = case.last(first, len(sizes))
    for size, number in zip(first.dims[-len(sizes) :], sizes, strict=True):
        case.require(size, number)
    return first


def _pool(pool: Any, axes: int, first: Shape, case: Case) -> Shape | None:
    if pool.ceil_mode or getattr(pool, "return_indices", False):
        return None
    return pooled(first, axes, (pool.kernel_size, pool.stride, pool.padding, getattr(pool, "dilation", 1)), case)


def pooled(first: Shape, axes: int, numbers: Sequence[Any], case: Case) -> Shape | None:
    """Return the shape of what pooling returns, given kernel, stride, padding and dilation; None if those vary."""
    each = [(one,) * axes if isinstance(one, int) else one for one in numbers]
    if not all(isinstance(one, (tuple, list)) and len(one) == axes for one in each):
        return None
    if not all(isinstance(number, int) for one in each for number in one):
        return None
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    return ending(first, *(slid(*geometry) for geometry in zip(first.dims[-axes:], *each, strict=True)))


def adaptive(sizes: Any, axes: int, first: Shape, case: Case) -> Shape:
    """Return the shape of what adaptive pooling over so many axes returns."""
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    wanted = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes] * axes
    given = first.dims[-axes:]
    return ending(first, *(old if new is None else new for new, old in zip(wanted, given, strict=True)))


def flatten(node: fx.Node, first: Shape, start: int, end: int, case: Case) -> Shape | None:
    """Return the shape with the axes from ``start`` to ``end`` made one."""
    first = case.resolved(first)
    if first.lead is not None:
        return case.fresh(node, start + 1) if start >= 0 and end == -1 else None
    rank = max(len(first.dims), 1)
    require_axes(range(rank), start, end)
    start, end = start % rank, end % rank
    if not first.dims:
        return Shape(None, 0, (1,))
    return Shape(None, 0, (*first.dims[:start], product(first.dims[start : end + 1]), *first.dims[end + 1 :]))


def widened(node: fx.Node, first: Any, case: Case) -> Any:
    """Return the shape of two operands that are broadcast to each other; None if one is not known."""
    operands = [case.shapes.get(one) if isinstance(one, fx.Node) else one for one in node.args[:2]]
    if len(operands) != 2 or set(node.kwargs) - {"alpha", "rounding_mode"}:
        return None
    first, second = (Shape(None, 0, ()) if isinstance(one, (int, float, Product)) else one for one in operands)
    return case.wide(node, first, second) if isinstance(first, Shape) and isinstance(second, Shape) else None
