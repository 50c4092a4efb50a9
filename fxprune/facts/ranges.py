"""Between which bounds every value of a graph lies, whatever the inputs: a forward dataflow analysis.

Used to tell when an activation is the identity (ReLU of a value that is never negative), and which values are
always zero. An op that is not listed has no bounds, nor has anything that is not a floating-point tensor (integers
wrap around, indices are no values). Values are taken to be finite (0 * x is 0).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional

from fxprune.facts.shapes import META, takes_dtype
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.ops.layer_classes import WEIGHTED_CLASSES
from fxprune.ops.operators import ADDITIONS, PRODUCTS

Bounds = tuple[float, float]
UNKNOWN: Bounds = (-math.inf, math.inf)
ZERO: Bounds = (0.0, 0.0)

_MODULES: dict[type[nn.Module], Callable[[Any], Bounds]] = {
    nn.ReLU: lambda m: (0.0, math.inf),
    nn.ReLU6: lambda m: (0.0, 6.0),
    nn.Hardtanh: lambda m: (float(m.min_val), float(m.max_val)),
    nn.Sigmoid: lambda m: (0.0, 1.0),
    nn.Hardsigmoid: lambda m: (0.0, 1.0),
    nn.Softmax: lambda m: (0.0, 1.0),
    nn.Softmax2d: lambda m: (0.0, 1.0),
    nn.Softplus: lambda m: _softplus(m.beta, m.threshold),
}
_CLAMPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
_FUNCTIONS: dict[Any, Bounds] = {
    functional.relu: (0.0, math.inf),
    torch.relu: (0.0, math.inf),
    "relu": (0.0, math.inf),
    functional.relu6: (0.0, 6.0),
    functional.sigmoid: (0.0, 1.0),
    torch.sigmoid: (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    functional.hardsigmoid: (0.0, 1.0),
    functional.softmax: (0.0, 1.0),
    torch.softmax: (0.0, 1.0),
    "softmax": (0.0, 1.0),
    torch.abs: (0.0, math.inf),
    "abs": (0.0, math.inf),
    torch.exp: (0.0, math.inf),
    "exp": (0.0, math.inf),
}
# Every output element is an input element, or an average of input elements.
_SELECTING_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.ChannelShuffle,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)
_SELECTING_FUNCTIONS = {
    functional.adaptive_max_pool2d,
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
    torch.flatten,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.chunk,
    torch.split,
    torch.mean,
    operator.getitem,
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split"),
    *("contiguous", "mean", "clone", "detach", "expand"),
}
# So too, but a dilated window may hold padding alone, which is -inf.
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MAX_POOL_FUNCTIONS = {functional.max_pool1d, functional.max_pool2d, functional.max_pool3d}
# As above, but zeros may be mixed in (padding, dropping out, averages that count padded zeros).
_ZERO_MIXING_MODULES = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_AVERAGE_FUNCTIONS = {functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d}
_CONCATENATIONS = {torch.cat, torch.concat, torch.stack}


def bounds_of_values(graph_module: fx.GraphModule) -> dict[fx.Node, Bounds]:
    """Return (lowest, highest) for every node: bounds that hold for all inputs in eval mode."""
    known: dict[fx.Node, Bounds] = {}
    for node in graph_module.graph.nodes:
        known[node] = _bounds(node, known) if _is_floating(node) else UNKNOWN
    return known


def _is_floating(node: fx.Node) -> bool:
    """Say whether ``node`` is known to compute floating-point tensors: one, or a tuple of nothing else."""
    found: list[bool] = []
    metas = node.meta.get(META)
    for meta in metas if isinstance(metas, (tuple, list)) and not isinstance(metas, TensorMetadata) else [metas]:
        found.append(isinstance(meta, TensorMetadata) and meta.dtype.is_floating_point)
    return bool(found) and all(found)


def activation_range(node: fx.Node) -> Bounds | None:
    """Return the range on which the activation at ``node`` is the identity; None if it is no clamp."""
    module = called_module(node)
    if module is not None:
        return _MODULES[type(module)](module) if type(module) in _CLAMPS and not has_hooks(module) else None
    if node.op not in ("call_function", "call_method"):
        return None
    if node.target in (functional.relu, torch.relu, "relu", functional.relu6):
        return _FUNCTIONS[node.target]
    return (0.0, math.inf) if node.target in (torch.abs, "abs") else None


def _bounds(node: fx.Node, known: dict[fx.Node, Bounds]) -> Bounds:
    module = called_module(node)
    source = known.get(node.args[0], UNKNOWN) if node.args and isinstance(node.args[0], fx.Node) else UNKNOWN
    if module is not None:
        return _module_bounds(module, source)
    if is_by_mode(node):
        either = [_operand(chosen(node, training), known) for training in (True, False)]
        return min(low for low, _ in either), max(high for _, high in either)
    clamp = activation_range(node)
    if clamp is not None and node.target not in (torch.abs, "abs"):
        return _clamp(source, clamp)
    if node.op not in ("call_function", "call_method"):
        return UNKNOWN
    if node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target]
    if node.target in _SELECTING_FUNCTIONS:
        return UNKNOWN if takes_dtype(node) else source
    if node.target is functional.dropout:
        return _non_negative_only(source)
    if node.target is functional.softplus:
        beta = node.args[1] if len(node.args) > 1 else node.kwargs.get("beta", 1.0)
        return _softplus(beta, node.args[2] if len(node.args) > 2 else node.kwargs.get("threshold", 20.0))
    if node.target in _MAX_POOL_FUNCTIONS:
        return source if _is_one(node.args[4] if len(node.args) > 4 else node.kwargs.get("dilation", 1)) else UNKNOWN
    if node.target in _AVERAGE_FUNCTIONS:
        return _with_zero(source) if len(node.args) < 7 and node.kwargs.get("divisor_override") is None else UNKNOWN
    if node.target in _CONCATENATIONS:
        parts = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else []
        bounds = [known.get(part, UNKNOWN) for part in parts if isinstance(part, fx.Node)]
        return (min(b[0] for b in bounds), max(b[1] for b in bounds)) if bounds else UNKNOWN
    if node.target is functional.interpolate:
        mode = node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")
        return source if mode in ("nearest", "bilinear", "area") else UNKNOWN
    if node.target is functional.pad:
        return _pad_bounds(node, source)
    if (node.target in ADDITIONS and not node.kwargs) or node.target in PRODUCTS:
        return _arithmetic(node, known)
    return UNKNOWN


def _module_bounds(module: nn.Module, source: Bounds) -> Bounds:
    kind = type(module)
    if has_hooks(module):
        return UNKNOWN
    if kind in _CLAMPS:
        return _clamp(source, _MODULES[kind](module))
    if kind in WEIGHTED_CLASSES:
        return ZERO if source == ZERO and module.bias is None else UNKNOWN
    if kind in _MODULES:
        return _MODULES[kind](module)
    if kind in _SELECTING_MODULES:
        return source
    if kind in _MAX_POOLS:
        return source if _is_one(module.dilation) else UNKNOWN
    if kind in _ZERO_MIXING_MODULES:
        return _with_zero(source) if "Pad" in kind.__name__ else _non_negative_only(source)
    if kind in _AVERAGES:
        return _with_zero(source) if getattr(module, "divisor_override", None) is None else UNKNOWN
    if kind is nn.Upsample:
        return source if module.mode in ("nearest", "linear", "bilinear", "trilinear") else UNKNOWN
    return UNKNOWN


def _softplus(beta: Any, threshold: Any) -> Bounds:
    """Return the bounds of softplus, which is the identity where beta x > threshold: below zero, if that is."""
    known = all(isinstance(number, (int, float)) and math.isfinite(number) for number in (beta, threshold))
    return (0.0, math.inf) if known and beta > 0 and threshold >= 0 else UNKNOWN


def _is_one(numbers: Any) -> bool:
    return all(number == 1 for number in (numbers if isinstance(numbers, (tuple, list)) else (numbers,)))


def _clamp(source: Bounds, limits: Bounds) -> Bounds:
    low, high = (min(max(value, limits[0]), limits[1]) for value in source)
    return low, high


def _with_zero(bounds: Bounds) -> Bounds:
    return min(bounds[0], 0.0), max(bounds[1], 0.0)


def _non_negative_only(bounds: Bounds) -> Bounds:
    """Keep only the sign: dropping out in train mode scales what it keeps."""
    if bounds == ZERO:
        return ZERO
    return (0.0, math.inf) if bounds[0] >= 0 else UNKNOWN


def _pad_bounds(node: fx.Node, source: Bounds) -> Bounds:
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    if mode in ("reflect", "replicate", "circular"):
        return source
    filling = 0.0 if value is None else value
    if mode != "constant" or not isinstance(filling, (int, float)) or not math.isfinite(filling):
        return UNKNOWN
    return min(source[0], filling), max(source[1], filling)


def _arithmetic(node: fx.Node, known: dict[fx.Node, Bounds]) -> Bounds:
    if len(node.args) != 2:
        return UNKNOWN
    (low_a, high_a), (low_b, high_b) = (_operand(argument, known) for argument in node.args)
    if node.target in ADDITIONS:
        return low_a + low_b, high_a + high_b
    if node.args[0] is node.args[1]:
        return 0.0, math.inf
    corners = [0.0 if 0.0 in (x, y) else x * y for x in (low_a, high_a) for y in (low_b, high_b)]
    return min(corners), max(corners)


def _operand(argument: Any, known: dict[fx.Node, Bounds]) -> Bounds:
    if isinstance(argument, fx.Node):
        return known.get(argument, UNKNOWN)
    if isinstance(argument, (int, float)) and not isinstance(argument, bool) and math.isfinite(argument):
        return float(argument), float(argument)
    return UNKNOWN
