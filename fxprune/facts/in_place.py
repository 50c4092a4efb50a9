"""Which ReLUs and sums may overwrite one of their inputs, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. A network that runs needs no memory for both
sides of a ReLU or a sum where nothing else reads the input, and what makes that does not need it for its gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.convs import is_conv
from fxprune.facts.shapes import same_shape
from fxprune.graph import called_module, only_user
from fxprune.layer_classes import CONV_CLASSES, NORM_CLASSES
from fxprune.operators import ADDITIONS, PRODUCTS

_RELU_LAYERS = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS = {functional.relu, functional.relu6}
# Beside convs, these return a new tensor, which they do not keep for backward.
_NEW_LAYERS = (*NORM_CLASSES, nn.Linear)
_NEW_FUNCTIONS = {functional.linear, functional.batch_norm, *ADDITIONS}
# These return a value for each value that they read, of its dtype under autocast too.
_EACH_LAYERS = (*NORM_CLASSES, *_RELU_LAYERS, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid)
_EACH_FUNCTIONS = {
    *_RELU_FUNCTIONS,
    functional.batch_norm,
    functional.silu,
    functional.hardswish,
    functional.hardsigmoid,
    torch.sigmoid,
}


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the calls of ReLUs, layers and functions, and the sums that may overwrite an input, with that input.

    The input is new memory that nothing else reads. A layer at several sites overwrites its input at all of them or
    at none. A sum has the shape, the dtype and the layout of what it overwrites, whatever the size of the inputs, and
    under autocast too: y += x rounds to the dtype of y, where y + x has the wider one. Where the grad mode changes,
    none is found: what is overwritten without gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return {}
    found = {}
    extents: dict[fx.Node, _Extent] = {}
    for node in graph.nodes:
        extents[node] = _extent(node, extents)
        source = _source(node, extents)
        if source is not None:
            found[node] = source
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node: source for node, source in found.items() if called_module(node) not in kept}


def is_sum(node: fx.Node) -> bool:
    """Say whether ``node`` adds two values and does nothing else."""
    return (
        _calls(node, ADDITIONS)
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(one, fx.Node) for one in node.args)
    )


class _Extent(NamedTuple):
    """What the shape of a value follows from, but for sizes that weights fix; and the kind of layer that made it.

    Each of the ``windows`` slid over the value of ``root``, one after the other; each has, for every axis but the
    first two, s and c of (n + c) // s + 1 positions. Values that layers of one kind made from one root have one
    dtype, under autocast too, and one layout. What is ``pooled`` has a single position.
    """

    root: fx.Node
    windows: tuple[tuple[tuple[int, int], ...], ...] = ()
    maker: type[nn.Module] | None = None
    pooled: bool = False

    def through(self, window: tuple[tuple[int, int], ...] | None, node: fx.Node) -> _Extent:
        """Return that of ``node``, which slides ``window`` over this; it is a root of its own if that is None."""
        if window is None:
            return _Extent(node)
        moves = any(one != (1, -1) for one in window)
        return self._replace(windows=(*self.windows, window)) if moves else self


def _extent(node: fx.Node, known: Mapping[fx.Node, _Extent]) -> _Extent:
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return _Extent(node)
    before, module = known[source], called_module(node)
    if type(module) in CONV_CLASSES:
        return before.through(_conv_window(module), node)._replace(maker=nn.Conv2d)
    if type(module) is nn.Linear or _calls(node, {functional.linear}):
        return before._replace(maker=nn.Linear)
    if isinstance(module, _EACH_LAYERS) or _calls(node, _EACH_FUNCTIONS):
        return before
    if type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        return before.through(_window(2, module.kernel_size, module.stride, module.padding, module.dilation), node)
    if is_sum(node):
        first, second = (known[one] for one in node.args if isinstance(one, fx.Node))
        return first if first == second else _Extent(node, maker=first.maker if first.maker is second.maker else None)
    if _pools_to_one(node):
        return before._replace(windows=(), pooled=True)
    if _calls(node, PRODUCTS) and len(node.args) == 2 and not node.kwargs:
        factors = sorted((known[one] for one in node.args if isinstance(one, fx.Node)), key=lambda one: one.pooled)
        is_gated = len(factors) == 2 and factors[0]._replace(windows=(), pooled=True) == factors[1]
        return factors[0] if is_gated else _Extent(node)
    if node.target is operator.getitem:
        return before.through(_strides(node.args[1]), node)
    if node.target is functional.pad and _pads_channels(node):
        return before
    return _Extent(node)


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
    if _calls(node, {functional.adaptive_avg_pool2d}):
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


def _source(node: fx.Node, extents: Mapping[fx.Node, _Extent]) -> fx.Node | None:
    operands = [one for one in node.args if isinstance(one, fx.Node)]
    if _is_relu(node):
        return next(filter(_is_new_and_read_once, operands), None)
    if not is_sum(node):
        return None
    first, second = node.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    if not same_shape(first, second) or extents[first] != extents[second] or extents[first].maker is None:
        return None
    return next(filter(_is_new_and_read_once, (first, second)), None)


def _is_relu(node: fx.Node) -> bool:
    is_layer = type(called_module(node)) in _RELU_LAYERS
    is_call = _calls(node, _RELU_FUNCTIONS) and set(node.kwargs) <= {"inplace"}
    return (is_layer or is_call) and len(node.args) == 1


def _is_new_and_read_once(node: fx.Node) -> bool:
    is_function = _calls(node, _NEW_FUNCTIONS) and "out" not in node.kwargs
    is_new = is_function or is_conv(node) or isinstance(called_module(node), _NEW_LAYERS)
    return is_new and only_user(node) is not None


def _calls(node: fx.Node, functions: Collection[Any]) -> bool:
    return node.op == "call_function" and node.target in functions
