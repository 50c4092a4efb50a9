"""What each op makes of shapes with unknown sizes: one rule a kind of op; what has no rule has a shape of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.applied import Applied
from fxprune.branch_scale import BranchScale
from fxprune.by_mode import chosen, is_by_mode
from fxprune.facts.sizes import (
    Product,
    Size,
    broadcast,
    computed,
    is_size,
    plus,
    product,
    size_of_axis,
    sliced,
    windowed,
)
from fxprune.facts.symbolic_shapes import Case, Refused, Shape
from fxprune.graph import called_module
from fxprune.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES
from fxprune.module_tree import has_hooks
from fxprune.node_targets import attribute
from fxprune.operators import ADDITIONS, PRODUCTS, SUBTRACTIONS
from fxprune.resconv import ResConv

Rule = Callable[[fx.Node, Any, Case], Any]
_LIKE_INPUT: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Identity, nn.Softmax, nn.GELU),
    *(nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Mish, nn.Hardtanh, nn.Softplus, nn.SELU, nn.CELU, nn.LogSoftmax),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Softsign, nn.LocalResponseNorm),
)
_LIKE_FIRST = {
    *(functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.hardsigmoid),
    *(functional.gelu, functional.leaky_relu, functional.elu, functional.mish, functional.softplus, functional.tanh),
    *(functional.dropout, functional.dropout2d, functional.softmax, functional.sigmoid, functional.hardtanh),
    *(functional.batch_norm, functional.layer_norm, functional.group_norm, functional.normalize, functional.prelu),
    *(
        torch.relu,
        torch.sigmoid,
        torch.tanh,
        torch.clamp,
        torch.abs,
        torch.exp,
        torch.softmax,
        torch.clone,
        torch.flip,
    ),
    *(
        torch.roll,
        torch.neg,
        torch.sqrt,
        torch.rsqrt,
        operator.neg,
        torch.square,
        torch.zeros_like,
        torch.randn_like,
        torch.rand_like,
        torch.ones_like,
    ),
    *("relu", "sigmoid", "tanh", "softmax", "clamp", "abs", "exp", "contiguous", "clone", "detach", "to", "float"),
    *("bernoulli", "floor", "ceil", "round", torch.floor, torch.bernoulli),
    *("half", "double", "bfloat16", "type", "type_as", "sqrt", "rsqrt", "square", "pow", "neg", "flip", "roll"),
}
_MAY_BROADCAST = {torch.clamp, "clamp", "pow", "bernoulli"}  # with tensors as their other arguments
_BROADCASTING = {
    *ADDITIONS,
    *SUBTRACTIONS,
    *PRODUCTS,
    operator.truediv,
    torch.div,
    *(operator.lt, operator.le, operator.gt, operator.ge),
    "div",
    torch.maximum,
    torch.minimum,
}
_NEW = {torch.randn, torch.rand, torch.zeros, torch.ones, torch.empty}
_NORMS = {torch.norm, "norm"}
_REDUCING = {torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin", *_NORMS}
_POOLS: dict[type[nn.Module], int] = {
    **{nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
}
_POOL_FUNCTIONS: dict[Any, tuple[int, bool]] = {  # how many axes they pool, and whether they take a dilation
    **{functional.max_pool1d: (1, True), functional.max_pool2d: (2, True), functional.max_pool3d: (3, True)},
    **{functional.avg_pool1d: (1, False), functional.avg_pool2d: (2, False), functional.avg_pool3d: (3, False)},
}
_ADAPTIVE: dict[Any, int] = {
    **{nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3},
    **{nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3},
    **{functional.adaptive_avg_pool1d: 1, functional.adaptive_avg_pool2d: 2, functional.adaptive_avg_pool3d: 3},
}
_CONV_FUNCTIONS: dict[Any, int] = {
    **{functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3},
    **{torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3},
}
# Of torchvision, which torch.fx does not look into: they return a value of the shape of their first argument.
_LIKE_FIRST_BY_NAME = {"stochastic_depth", "drop_block2d", "drop_block3d", "shifted_window_attention"}
_NORM_RANKS: dict[type[nn.Module], tuple[int, ...]] = {
    **{nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,), nn.SyncBatchNorm: (2, 3, 4, 5, 6)}
}


def shape_of(node: fx.Node, case: Case) -> Any:
    """Return the shape of what ``node`` computes: a Shape; of no tensor, a Size or a list of such, None if unknown.

    Raises Refused if the op takes no such inputs.
    """
    if node.op == "placeholder":
        return case.fresh(node, case.ranks[node]) if node in case.ranks else case.own(node)
    if node.op == "output":
        return None
    if node.op == "get_attr":
        owner = node.graph.owning_module
        value = attribute(owner, str(node.target)) if owner is not None else None
        return Shape(None, 0, tuple(value.shape)) if isinstance(value, torch.Tensor) else None
    module = called_module(node)
    first = case.shapes.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if module is not None:
        found = _of_module(node, module, first, case) if not has_hooks(module) else None
    else:
        found = _of_call(node, first, case)
    return case.own(node) if found is None else found


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _of_module(node: fx.Node, module: nn.Module, first: Any, case: Case) -> Any:
    if isinstance(module, BranchScale):
        return _broadcast(node, first, case)
    if not isinstance(first, Shape):
        return None
    if isinstance(module, ResConv):
        found = _conv(module.conv, first, case)
        return found if module.norm is None else _norm(module.norm, found, case)
    if isinstance(module, CONV_CLASSES):
        return _conv(module, first, case)
    if isinstance(module, TRANSPOSED_CLASSES):
        return _transposed(module, first, case) if len(node.args) == 1 and not node.kwargs else None
    if type(module) in _NORM_RANKS:
        return _norm(module, first, case)
    if type(module) is nn.Linear:
        return _linear(first, module.in_features, module.out_features, case)
    if type(module) in _LIKE_INPUT or (isinstance(module, Applied) and module.keeps_shape):
        return first
    if type(module) is nn.LayerNorm:
        return _normalized(first, module.normalized_shape, case)
    if type(module) is nn.GroupNorm:
        return first
    if type(module) in _POOLS:
        return _pool(module, _POOLS[type(module)], first, case)
    if type(module) in _ADAPTIVE and not getattr(module, "return_indices", False):
        return _adaptive(module.output_size, _ADAPTIVE[type(module)], first, case)
    if type(module) is nn.Flatten:
        return _flatten(node, first, module.start_dim, module.end_dim, case)
    if type(module) is nn.MultiheadAttention:
        return [case.among(first, 2, 3), None]
    return None


def _of_call(node: fx.Node, first: Any, case: Case) -> Any:
    if is_by_mode(node):
        return _of_either(node, case)
    if node.op == "call_function" and node.target in (operator.getitem, getattr, torch._assert, operator.eq):
        return _of_python(node, first, case)
    if not isinstance(first, Shape):
        return _of_numbers(node, case)
    if _is_shape(node.args[0]):
        return None  # arithmetic of tuples
    if node.target in _LIKE_FIRST and not (node.target in _MAY_BROADCAST and len(node.all_input_nodes) > 1):
        return _normalized(first, argument(node, 1, "normalized_shape"), case) if _is_layer_norm(node) else first
    name = getattr(node.target, "__name__", "")
    if name in _LIKE_FIRST_BY_NAME and str(getattr(node.target, "__module__", "")).startswith("torchvision."):
        return first
    rule = _RULES.get(node.target)
    return None if rule is None else rule(node, first, case)


def _of_either(node: fx.Node, case: Case) -> Any:
    """Return the shape that both choices have; None if they have not one."""
    found = [case.shapes.get(chosen(node, mode)) for mode in (True, False) if isinstance(chosen(node, mode), fx.Node)]
    told = [case.compared(one) if isinstance(one, Shape) else one for one in found]
    return found[1] if len(told) == 2 and told[0] == told[1] else None


def _is_layer_norm(node: fx.Node) -> bool:
    return node.target is functional.layer_norm


# Layers


def _conv(conv: Any, first: Shape, case: Case) -> Shape:
    axes = len(conv.kernel_size)
    paddings = (None,) * axes if conv.padding == "same" else (0,) * axes if conv.padding == "valid" else conv.padding
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    case.require(first.dims[-axes - 1], conv.in_channels)
    geometry = zip(first.dims[-axes:], conv.kernel_size, conv.stride, paddings, conv.dilation, strict=True)
    moved = [n if p is None else _slid(n, k, s, p, d) for n, k, s, p, d in geometry]
    return _ending(first, conv.out_channels, *moved)


def _slid(size: Size, kernel: int, stride: int, padding: int, dilation: int) -> Size:
    return windowed(size, stride, 2 * padding - dilation * (kernel - 1) - 1)


def _ending(shape: Shape, *sizes: Size) -> Shape:
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
    return _ending(first, conv.out_channels, *sizes)


def _norm(norm: Any, first: Shape, case: Case) -> Shape:
    ranks = _NORM_RANKS.get(type(norm), ())
    first = case.ranked(first, ranks[0]) if len(ranks) == 1 else case.among(first, *ranks) if ranks else first
    if first.lead is None:
        case.require(first.dims[1], norm.num_features)
    return first


def _linear(first: Shape, inputs: int, outputs: int, case: Case) -> Shape:
    first = case.last(first, 1)
    case.require(first.dims[-1], inputs)
    return _ending(first, outputs)


def _normalized(first: Shape, sizes: Any, case: Case) -> Shape:
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(size, int) for size in sizes):
        return first
    first = case.last(first, len(sizes))
    for size, number in zip(first.dims[-len(sizes) :], sizes, strict=True):
        case.require(size, number)
    return first


def _pool(pool: Any, axes: int, first: Shape, case: Case) -> Shape | None:
    if pool.ceil_mode or getattr(pool, "return_indices", False):
        return None
    numbers = (pool.kernel_size, pool.stride, pool.padding, getattr(pool, "dilation", 1))
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    each = [(one,) * axes if isinstance(one, int) else one for one in numbers]
    return _ending(first, *(_slid(*geometry) for geometry in zip(first.dims[-axes:], *each, strict=True)))


def _adaptive(sizes: Any, axes: int, first: Shape, case: Case) -> Shape:
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    wanted = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes] * axes
    given = first.dims[-axes:]
    return _ending(first, *(old if new is None else new for new, old in zip(wanted, given, strict=True)))


# Functions and methods


def _broadcast(node: fx.Node, first: Any, case: Case) -> Any:
    operands = [case.shapes.get(one) if isinstance(one, fx.Node) else one for one in node.args[:2]]
    if len(operands) != 2 or set(node.kwargs) - {"alpha", "rounding_mode"}:
        return None
    first, second = (Shape(None, 0, ()) if isinstance(one, (int, float, Product)) else one for one in operands)
    return case.wide(node, first, second) if isinstance(first, Shape) and isinstance(second, Shape) else None


def _three(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    """Return the shape of a + b * c."""
    second, third = (case.shapes.get(argument(node, i, f"tensor{i}")) for i in (1, 2))
    if not isinstance(second, Shape) or not isinstance(third, Shape):
        return None
    return case.wide(node, first, case.wide(node, second, third))


def _conv_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axes, weight = _CONV_FUNCTIONS[node.target], case.shapes.get(argument(node, 1, "weight"))
    if (
        not isinstance(weight, Shape)
        or len(weight.dims) != axes + 2
        or not all(isinstance(n, int) for n in weight.dims)
    ):
        return None
    numbers: list[Any] = [
        argument(node, 3 + i, name, i != 1) for i, name in enumerate(("stride", "padding", "dilation"))
    ]
    if any(isinstance(one, (str, fx.Node)) for one in numbers):
        return None
    stride, padding, dilation = ((int(one),) * axes if isinstance(one, int) else tuple(one) for one in numbers)
    if not len(stride) == len(padding) == len(dilation) == axes:
        return None
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    groups = argument(node, 6, "groups", 1)
    if isinstance(groups, int):
        case.require(first.dims[-axes - 1], weight.dims[1] * groups)  # type: ignore[arg-type]
    geometry = zip(first.dims[-axes:], weight.dims[2:], stride, padding, dilation, strict=True)
    return _ending(first, weight.dims[0], *(_slid(*one) for one in geometry))  # type: ignore[arg-type]


def _pool_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axes, is_max = _POOL_FUNCTIONS[node.target]
    kernel, stride, padding = (argument(node, 1 + i, n) for i, n in enumerate(("kernel_size", "stride", "padding")))
    dilation, ceil = (argument(node, 4, "dilation", 1), 5) if is_max else (1, 4)
    rest = [argument(node, ceil, "ceil_mode", False), argument(node, 6, "return_indices", False) if is_max else False]
    numbers = (kernel, kernel if stride is None else stride, 0 if padding is None else padding, dilation)
    each = [(one,) * axes if isinstance(one, int) else one for one in numbers]
    if rest != [False, False] or not all(isinstance(one, (tuple, list)) and len(one) == axes for one in each):
        return None
    if not all(isinstance(number, int) for one in each for number in one):
        return None
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    return _ending(first, *(_slid(*geometry) for geometry in zip(first.dims[-axes:], *each, strict=True)))


def _linear_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    weight = case.shapes.get(argument(node, 1, "weight"))
    if not isinstance(weight, Shape) or len(weight.dims) != 2 or not all(isinstance(n, int) for n in weight.dims):
        return None
    return _linear(first, weight.dims[1], weight.dims[0], case)  # type: ignore[arg-type]


def _adaptive_call(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    sizes = argument(node, 1, "output_size")
    parts = sizes if isinstance(sizes, (tuple, list)) else [sizes]
    known = all(isinstance(one, int) or one is None for one in parts)
    return _adaptive(sizes, _ADAPTIVE[node.target], first, case) if known else None


def _pad(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    amounts = argument(node, 1, "pad")
    if not isinstance(amounts, (tuple, list)) or len(amounts) % 2:
        return None
    more = [_size(one, case) for one in amounts]
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
    sizes = [_size(one, case) if isinstance(one, fx.Node) else one for one in wanted]
    told: list[Size] = [one for one in sizes if one is not None and is_size(one)]
    if len(told) != len(sizes):
        return None
    return _ending(case.last(case.among(first, len(told) + 2), len(told)), *told)


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
    _require_axes(sizes, one, other)
    sizes[one], sizes[other] = sizes[other], sizes[one]
    return first._replace(dims=tuple(sizes))


def _require_axes(sizes: Any, *axes: int) -> None:
    if any(not -len(sizes) <= axis < len(sizes) for axis in axes):
        raise Refused


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
    sizes: list[Any] = [_size(one, case) if isinstance(one, fx.Node) else one for one in parts]
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
        size = _size(one, case) if isinstance(one, fx.Node) else one
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
    return _flatten(node, first, start, end, case) if isinstance(start, int) and isinstance(end, int) else None


def _flatten(node: fx.Node, first: Shape, start: int, end: int, case: Case) -> Shape | None:
    first = case.resolved(first)
    if first.lead is not None:
        return case.fresh(node, start + 1) if start >= 0 and end == -1 else None
    rank = max(len(first.dims), 1)
    _require_axes(range(rank), start, end)
    start, end = start % rank, end % rank
    if not first.dims:
        return Shape(None, 0, (1,))
    return Shape(None, 0, (*first.dims[:start], product(first.dims[start : end + 1]), *first.dims[end + 1 :]))


def _unsqueeze(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    axis = argument(node, 1, "dim")
    first = case.resolved(first)
    if not isinstance(axis, int) or (first.lead is not None and not -len(first.dims) - 1 <= axis < 0):
        return None
    _require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return first._replace(dims=(*first.dims[:at], 1, *first.dims[at:]))


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
    _require_axes(first.dims, *axes)
    gone = {axis % len(first.dims) for axis in axes}
    kept = [1 if axis in gone else size for axis, size in enumerate(first.dims) if keeps or axis not in gone]
    return first._replace(dims=tuple(kept))


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
    _require_axes(sizes, axis)
    total: Size = 0
    for one in known:
        total = plus(total, one.dims[axis])
    sizes[axis] = total
    return known[0]._replace(dims=tuple(sizes))


def _stack(node: fx.Node, case: Case) -> Shape | None:
    parts, axis = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    shapes = [case.shapes.get(one) if isinstance(one, fx.Node) else None for one in parts]
    first = case.resolved(shapes[0]) if shapes and isinstance(shapes[0], Shape) else None
    if first is None or first.lead is not None or not isinstance(axis, int):
        return None
    _require_axes(range(len(first.dims) + 1), axis)
    at = axis % (len(first.dims) + 1)
    return Shape(None, 0, (*first.dims[:at], len(shapes), *first.dims[at:]))


def _einsum(node: fx.Node, case: Case) -> Shape | None:
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
    return _ending(first, value.dims[-1])


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
    _require_axes(first.dims, axis)
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
    return first if axis is None else _axis(node, first, axis, case)


def _rank_call(node: fx.Node, first: Shape, case: Case) -> Any:
    rank = case.resolved(first).rank
    return size_of_axis("rank", first.lead, len(first.dims) - first.cut) if rank is None else rank


def _new_tensor(node: fx.Node, first: Shape, case: Case) -> Shape | None:
    given = node.args[1] if len(node.args) == 2 else node.args[1:]
    told = _sizes(given, case)
    return None if told is None else Shape(None, 0, tuple(told))


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(_REDUCING, _reduce),
    **dict.fromkeys(_CONV_FUNCTIONS, _conv_call),
    **dict.fromkeys(_POOL_FUNCTIONS, _pool_call),
    **{one: _adaptive_call for one in _ADAPTIVE if not isinstance(one, type)},
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.transpose, torch.swapaxes, "transpose", "swapaxes"), _transpose),
    **dict.fromkeys((torch.addcmul, torch.addcdiv, "addcmul", "addcdiv"), _three),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _reshape),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten_call),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), _unsqueeze),
    **dict.fromkeys((torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm"), _matmul),
    **dict.fromkeys((torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"), _parts),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), _like_second),
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones"), _new_tensor),
    **{functional.linear: _linear_call, functional.pad: _pad, "expand": _expand, "size": _size_call},
    functional.interpolate: _interpolate,
    **{functional.scaled_dot_product_attention: _attention, "dim": _rank_call},
}


# What Python does with sizes, tuples and indices


def _size(value: Any, case: Case) -> Size | None:
    """Return the size that an argument is; None if it is none that is known."""
    if isinstance(value, fx.Node):
        value = case.shapes.get(value)
    return value if isinstance(value, (int, Product)) and not isinstance(value, bool) else None


def _of_numbers(node: fx.Node, case: Case) -> Any:
    if node.target in (torch.cat, torch.concat):
        return _cat(node, case)
    if node.target in _NEW:
        given = node.args[0] if node.args and isinstance(node.args[0], (tuple, list)) else node.args
        told = [size for one in given if (size := _size(one, case)) is not None and is_size(size)]
        return Shape(None, 0, tuple(told)) if len(told) == len(given) and "size" not in node.kwargs else None
    if node.target in (torch.stack, torch.einsum):
        return _stack(node, case) if node.target is torch.stack else _einsum(node, case)
    if node.target in _BROADCASTING and any(isinstance(case.shapes.get(one), Shape) for one in node.all_input_nodes):
        return _broadcast(node, None, case)
    if node.target is operator.neg:
        only = _size(node.args[0], case)
        return None if only is None else product((only, -1))
    if len(node.args) != 2 or node.op != "call_function":
        return None
    if node.target in (operator.add, operator.mul) and any(_sizes(one, case) is not None for one in node.args):
        return _of_tuples(node, case)
    first, second = (_size(one, case) for one in node.args)
    name = getattr(node.target, "__name__", "")
    return None if first is None or second is None else computed(name, first, second)


def _sizes(value: Any, case: Case) -> list[Size] | None:
    """Return the sizes that a tuple or a list holds, or a node that computes one; None if some are not known."""
    found = case.shapes.get(value) if isinstance(value, fx.Node) else value
    if isinstance(found, Shape) and _is_shape(value):
        found = found.dims if found.lead is None else None
    if not isinstance(found, (tuple, list)) or isinstance(found, (Shape, Product)):
        return None
    told = [_size(one, case) for one in found]
    return [one for one in told if one is not None] if None not in told else None


def _of_tuples(node: fx.Node, case: Case) -> list[Size] | None:
    """Return the sizes in a sum of tuples, or in a tuple that is repeated a known number of times."""
    sides = [_sizes(one, case) for one in node.args]
    if node.target is operator.add:
        return None if sides[0] is None or sides[1] is None else sides[0] + sides[1]
    parts, times = (sides[0], node.args[1]) if sides[0] is not None else (sides[1], node.args[0])
    count = _size(times, case)
    return parts * count if parts is not None and isinstance(count, int) else None


def _of_python(node: fx.Node, first: Any, case: Case) -> Any:
    if node.target is getattr:
        name = node.args[1]
        if not isinstance(first, Shape):
            return None
        return first if name == "shape" else _rank_call(node, first, case) if name == "ndim" else None
    if node.target is operator.eq:
        sides = [_size(one, case) for one in node.args]
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
    if _is_shape(source):
        if isinstance(index, slice):
            return _some_sizes(first, index, case)
        return _axis(node, first, index, case)
    return _indexed(node, first, index, case)


def _is_shape(node: Any) -> bool:
    """Say whether ``node`` reads a shape, or a size of it."""
    if node.op == "call_method":
        return bool(node.target == "size")
    return node.target is getattr and bool(node.args[1] == "shape")


def _assert_equal(first: Size, second: Size, case: Case) -> None:
    case.require(first, second)
    case.require(second, first)


def _axis(node: fx.Node, shape: Shape, index: Any, case: Case) -> Size | None:
    if not isinstance(index, int):
        return None
    shape = case.last(shape, -index) if index < 0 else case.resolved(shape)
    if shape.lead is not None and index >= 0:
        return size_of_axis("number", node)
    _require_axes(shape.dims, index)
    return shape.dims[index]


def _some_sizes(shape: Shape, index: slice, case: Case) -> list[Size] | None:
    shape = case.resolved(shape)
    return list(shape.dims[index]) if shape.lead is None else None


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
            bounds = [_size(part, case) if part is not None else None for part in (one.start, one.stop, one.step)]
            given = (one.start, one.stop, one.step)
            if any(bound is None and part is not None for bound, part in zip(bounds, given, strict=True)):
                return None
            sizes.append(sliced(left.pop(0), *bounds))
        else:
            left.pop(0)
    return Shape(None, 0, (*sizes, *left))
