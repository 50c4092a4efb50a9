"""Shapes of what slides windows over axes, pads and resizes them: convolutions, pools, interpolation."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.facts.shape_rules.cases import Case, Shape
from fxprune.facts.shape_rules.numbers import known_size
from fxprune.facts.shape_rules.sizes import Size, is_size, plus, product, windowed
from fxprune.ops.call import Call


def conv(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what a convolution returns."""
    weight, geometry = _weight(call, case), [call.numbers(name) for name in ("stride", "dilation")]
    padding = _paddings(call)
    if weight is None or None in geometry or padding is None:
        return None
    axes = len(padding)
    out, inputs, *kernel = weight
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    case.require(first.dims[-axes - 1], inputs)
    each = zip(first.dims[-axes:], kernel, geometry[0], padding, geometry[1], strict=True)  # type: ignore[arg-type]
    moved = [n if p is None else _slid(n, k, s, p, d) for n, k, s, p, d in each]
    return ending(first, out, *moved)


def _weight(call: Call, case: Case) -> tuple[int, ...] | None:
    """Return the output channels of a convolution, all input channels, and the sizes of its kernel."""
    module = call.module
    if module is not None:
        return (module.out_channels, module.in_channels, *module.kernel_size)
    weight, groups = case.shapes.get(call.argument("weight")), call.argument("groups")
    sizes: Any = weight.dims if isinstance(weight, Shape) else ()
    assert call.op is not None
    if len(sizes) != call.op.axes + 2 or not all(isinstance(one, int) for one in (*sizes, groups)):
        return None
    return (sizes[0], sizes[1] * groups, *sizes[2:])


def _paddings(call: Call) -> tuple[int | None, ...] | None:
    """Return how much is padded on each side of each axis; None of an axis where the size stays ("same")."""
    assert call.op is not None
    given = call.argument("padding")
    if given in ("same", "valid"):
        return (None if given == "same" else 0,) * call.op.axes
    return call.numbers("padding")


def _slid(size: Size, kernel: int, stride: int, padding: int, dilation: int) -> Size:
    """Return at how many positions a window stands."""
    return windowed(size, stride, 2 * padding - dilation * (kernel - 1) - 1)


def ending(shape: Shape, *sizes: Size) -> Shape:
    """Return ``shape`` with other last sizes."""
    return shape._replace(dims=(*shape.dims[: -len(sizes)], *sizes))


def transposed(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what a transposed convolution, as a layer without an ``output_size``, returns."""
    layer = call.module
    if layer is None or len(call.node.args) != 1 or call.node.kwargs:
        return None
    axes = len(layer.kernel_size)
    first = case.last(case.among(first, axes + 1, axes + 2), axes + 1)
    case.require(first.dims[-axes - 1], layer.in_channels)
    sizes: list[Size] = []
    geometry = (layer.stride, layer.padding, layer.dilation, layer.kernel_size, layer.output_padding)
    for n, s, p, d, k, more in zip(first.dims[-axes:], *geometry, strict=True):
        sizes.append(plus(product((n, s)), d * (k - 1) + 1 + more - 2 * p - s))
    return ending(first, layer.out_channels, *sizes)


def pooled(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what pooling returns, with sizes of its own where it rounds up; None of indices too."""
    assert call.op is not None
    if call.argument("return_indices"):
        return None
    if call.argument("ceil_mode"):
        first = case.last(case.among(first, call.op.axes + 1, call.op.axes + 2), call.op.axes)
        return ending(first, *case.fresh(call.node, call.op.axes).dims)
    kernel = call.numbers("kernel_size")
    stride = kernel if call.argument("stride") in (None, (), []) else call.numbers("stride")
    padding = call.numbers("padding") if "padding" in call.op.places else (0,) * call.op.axes
    dilation = call.numbers("dilation") if "dilation" in call.op.places else (1,) * call.op.axes
    if kernel is None or stride is None or padding is None or dilation is None:
        return None
    axes = call.op.axes
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    geometry = zip(first.dims[-axes:], kernel, stride, padding, dilation, strict=True)
    return ending(first, *(_slid(*one) for one in geometry))


def adaptive(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what adaptive pooling returns; None if it returns indices too."""
    assert call.op is not None
    axes, given = call.op.axes, call.argument("output_size")
    wanted = list(given) if isinstance(given, (tuple, list)) else [given] * axes
    known = all(isinstance(one, int) or one is None for one in wanted) and len(wanted) == axes
    if not known or call.argument("return_indices"):
        return None
    first = case.last(case.among(first, axes + 1, axes + 2), axes)
    return ending(first, *(old if new is None else new for new, old in zip(wanted, first.dims[-axes:], strict=True)))


def padded(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what ``functional.pad`` returns, with sizes of its own where amounts are not known."""
    amounts = call.argument("pad")
    if not isinstance(amounts, (tuple, list)) or len(amounts) % 2:
        return None
    more = [known_size(one, case) for one in amounts]
    count = len(more) // 2
    first = case.last(first, count)
    if any(one is None for one in more):
        return ending(first, *case.fresh(call.node, count).dims) if count else None
    sizes = list(first.dims)
    for axis in range(count):
        for amount in more[2 * axis : 2 * axis + 2]:
            sizes[-1 - axis] = plus(sizes[-1 - axis], amount)  # type: ignore[arg-type]
    return first._replace(dims=tuple(sizes))


def _scaled(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of an image that is a whole number of times as large; of other factors the rank alone."""
    factor, first = call.argument("scale_factor"), case.resolved(first)
    if first.lead is not None or not 3 <= len(first.dims) <= 5:
        return None
    axes = len(first.dims) - 2
    if isinstance(factor, (int, float)) and factor == int(factor) and factor > 0:
        return ending(first, *(product((size, int(factor))) for size in first.dims[-axes:]))
    return ending(first, *case.fresh(call.node, axes).dims)


def resized(call: Call, first: Shape, case: Case) -> Shape | None:
    """Return the shape of what interpolation returns: of given sizes, or so many times as large."""
    wanted = call.argument("size")
    if wanted is None:
        return _scaled(call, first, case)
    wanted = case.shapes.get(wanted) if isinstance(wanted, fx.Node) else wanted
    if not isinstance(wanted, (tuple, list)) or isinstance(wanted, Shape):
        return None
    sizes = [known_size(one, case) if isinstance(one, fx.Node) else one for one in wanted]
    told: list[Size] = [one for one in sizes if one is not None and is_size(one)]
    if len(told) != len(sizes):
        return None
    return ending(case.last(case.among(first, len(told) + 2), len(told)), *told)
