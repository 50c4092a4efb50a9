"""Constant factors in a graph, and which ops a positive factor passes through."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.shapes import is_floating, same_shape, takes_dtype
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.ops.operators import PRODUCTS, calls

# f(a x) = a f(x) for every a ...
_LINEAR_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.PixelShuffle,
    nn.ChannelShuffle,
)
_LINEAR_FUNCTIONS: set[Any] = {
    torch.flatten,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
    functional.dropout,
    torch.permute,
    torch.transpose,
    torch.mean,
    *("flatten", "view", "reshape", "permute", "transpose", "contiguous", "mean"),
}
# ... and for positive a only.
_POSITIVE_MODULES = (nn.ReLU, nn.LeakyReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_POSITIVE_FUNCTIONS: set[Any] = {
    functional.relu,
    torch.relu,
    "relu",
    functional.max_pool2d,
    functional.leaky_relu,
}


def constant_factor(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return (x, a) if ``node`` is x * a with a Python number a, in the shape and floating dtype of x; else None."""
    if not calls(node, PRODUCTS) or node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    source, factor = (right, left) if isinstance(right, fx.Node) else (left, right)
    if not isinstance(source, fx.Node) or not isinstance(factor, (int, float)) or isinstance(factor, bool):
        return None
    is_scale = math.isfinite(factor) and is_floating(node) and same_shape(source, node)
    return (source, float(factor)) if is_scale else None


def passes_factor(node: fx.Node, factor: float) -> bool:
    """Say whether scaling the first input of ``node`` by ``factor`` scales its output, and nothing else does."""
    if not node.args or not isinstance(node.args[0], fx.Node) or not is_floating(node):
        return False  # indices, which a layer may return beside its values, do not scale
    module = called_module(node)
    if module is not None:
        if has_hooks(module):
            return False
        return type(module) in _LINEAR_MODULES or (factor > 0 and type(module) in _POSITIVE_MODULES)
    if node.op not in ("call_function", "call_method") or takes_dtype(node):
        return False
    return node.target in _LINEAR_FUNCTIONS or (factor > 0 and node.target in _POSITIVE_FUNCTIONS)
