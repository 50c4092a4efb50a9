"""What the shapes of values follow from: which values have one shape whatever the size of the inputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.ir.nodes import called_module
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES
from fxprune.ops.operators import PRODUCTS, calls_function, is_sum

# These return a value for each value that they read, of its dtype under autocast too.
_EACH_LAYERS = (*NORM_CLASSES, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid)
_EACH_FUNCTIONS = {
    functional.relu,
    functional.relu6,
    functional.batch_norm,
    functional.silu,
    functional.hardswish,
    functional.hardsigmoid,
    torch.relu,
    torch.sigmoid,
}
# ... in another dtype, perhaps.
_SHAPE_LAYERS = (
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Softmax),
    *(nn.GELU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Mish, nn.Hardtanh, nn.Softplus),
)
_SHAPE_FUNCTIONS = {
    *(functional.layer_norm, functional.group_norm, functional.dropout, functional.gelu, functional.leaky_relu),
    *(functional.elu, functional.mish, functional.softplus, torch.tanh, torch.clamp),
}


def extents_of(graph: fx.Graph) -> dict[fx.Node, Extent]:
    """Return the extent of every value: values of one extent and one shape have one shape for every input."""
    found: dict[fx.Node, Extent] = {}
    for node in graph.nodes:
        found[node] = _extent(node, found)
    return found


class Extent(NamedTuple):
    """What the shape of a value follows from, but for sizes that weights fix; and the kind of layer that made it.

    Each of the ``windows`` slid over the value of ``root``, one after the other; each has, for every axis but the
    first two, s and c of (n + c) // s + 1 positions. Values that layers of one kind made from one root have one
    dtype, under autocast too, and one layout. What is ``pooled`` has a single position.
    """

    root: fx.Node
    windows: tuple[tuple[tuple[int, int], ...], ...] = ()
    maker: type[nn.Module] | None = None
    pooled: bool = False

    def sizes(self) -> Extent:
        """Return what the shape alone follows from."""
        return self._replace(maker=None)

    def through(self, window: tuple[tuple[int, int], ...] | None, node: fx.Node) -> Extent:
        """Return that of ``node``, which slides ``window`` over this; it is a root of its own if that is None."""
        if window is None:
            return Extent(node)
        moves = any(one != (1, -1) for one in window)
        return self._replace(windows=(*self.windows, window)) if moves else self


def _extent(node: fx.Node, known: Mapping[fx.Node, Extent]) -> Extent:
    source = node.args[0] if node.args else None
    if isinstance(source, (int, float)) and len(node.args) == 2 and calls_function(node, PRODUCTS):
        source = node.args[1]
    if not isinstance(source, fx.Node):
        return Extent(node)
    before, module = known[source], called_module(node)
    if type(module) in CONV_CLASSES:
        return before.through(_conv_window(module), node)._replace(maker=nn.Conv2d)
    if type(module) is nn.Linear or calls_function(node, {functional.linear}):
        return before._replace(maker=nn.Linear)
    if isinstance(module, _EACH_LAYERS) or calls_function(node, _EACH_FUNCTIONS):
        return before
    if type(module) in _SHAPE_LAYERS or calls_function(node, _SHAPE_FUNCTIONS):
        return before._replace(maker=None)
    if type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        return before.through(_window(2, module.kernel_size, module.stride, module.padding, module.dilation), node)
    if type(module) is nn.AvgPool2d and not module.ceil_mode:
        return before.through(_window(2, module.kernel_size, module.stride, module.padding, 1), node)
    if is_sum(node):
        first, second = (known[one] for one in node.args if isinstance(one, fx.Node))
        return first if first == second else Extent(node, maker=first.maker if first.maker is second.maker else None)
    if _pools_to_one(node):
        return before._replace(windows=(), pooled=True)
    if calls_function(node, PRODUCTS) and len(node.args) == 2 and not node.kwargs:
        if not all(isinstance(one, fx.Node) for one in node.args):
            return before
        if len(node.all_input_nodes) == 2 and len({known[one].sizes() for one in node.all_input_nodes}) == 1:
            return before._replace(maker=None)
        factors = sorted((known[one] for one in node.args if isinstance(one, fx.Node)), key=lambda one: one.pooled)
        is_gated = len(factors) == 2 and factors[0]._replace(windows=(), pooled=True) == factors[1]
        return factors[0] if is_gated else Extent(node)
    if node.target is operator.getitem:
        return before.through(_strides(node.args[1]), node)
    if node.target is functional.pad and _pads_channels(node):
        return before
    return Extent(node)


def _conv_window(conv: Any) -> tuple[tuple[int, int], ...] | None:
    axes = len(conv.kernel_size)
    if conv.padding == "same":
        return ((1, -1),) * axes
    padding = 0 if conv.padding == "valid" else conv.padding
    return _window(axes, conv.kernel_size, conv.stride, padding, conv.dilation)


def _window(axes: int, *sizes: int | tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    kernels, strides, paddings, dilations = ((one,) * axes if isinstance(one, int) else one for one in sizes)
    return tuple(
        (stride, 2 * padding - dilation * (kernel - 1) - 1)
        for kernel, stride, padding, dilation in zip(kernels, strides, paddings, dilations, strict=True)
    )


def _strides(index: Any) -> tuple[tuple[int, int], ...] | None:
    """Return the window of an index that takes every s-th position of axes behind the first two; None for others."""
    slices = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(one, slice) and one.start is None and one.stop is None for one in slices):
        return None
    steps: list[Any] = [1 if one.step is None else one.step for one in slices]
    if not all(type(step) is int and step > 0 for step in steps) or set(steps[:2]) - {1}:
        return None
    return tuple((step, -1) for step in steps[2:])


def _pools_to_one(node: fx.Node) -> bool:
    module = called_module(node)
    if calls_function(node, {functional.adaptive_avg_pool2d}):
        size: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    else:
        size = module.output_size if type(module) is nn.AdaptiveAvgPool2d else None
    return size == 1 or (isinstance(size, (tuple, list)) and list(size) == [1, 1])


def _pads_channels(node: fx.Node) -> bool:
    """Say whether a call of ``functional.pad`` adds constant channels to images, and nothing else."""
    amounts: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    of_channels = isinstance(amounts, (tuple, list)) and len(amounts) == 6 and list(amounts[:4]) == [0] * 4
    return bool(mode == "constant" and of_channels)
