"""Claims of what an op computes hold by numbers, whatever its parameters: bounds, and factors that pass through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from helpers import Wrapped, traced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.ranges import UNKNOWN, bounds_of_values

Op = Callable[[torch.Tensor], Any]
NUMBERS = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.5, 6.0, 20.0, 1e3, -1e-3, -0.5, -1.0, -3.0, -20.0])
# What the op is applied to: bounded from above, from below, on both sides, by zero, not at all.
SOURCES: list[Op] = [
    lambda x: x * 1.5,
    torch.relu,
    torch.sigmoid,
    lambda x: F.relu6(x) * -2.0 + 1.0,
    lambda x: torch.sigmoid(x) + 3.0,
    lambda x: x * 0.0,
    lambda x: torch.relu(x) * -1.0,
]


def _interpolation(mode: str, a: float, b: float) -> Op:
    options = {"align_corners": b > 0} if mode in ("bilinear", "bicubic") else {}
    return lambda x: F.interpolate(x, size=(5 if a > 0 else 9, 4), mode=mode, **options)


OPS: dict[str, Callable[[float, float], Op]] = {
    "nn.Softplus": lambda a, b: nn.Softplus(a, b),
    "softplus": lambda a, b: lambda x: F.softplus(x, a, b),
    "softplus by keyword": lambda a, b: lambda x: F.softplus(x, threshold=b, beta=a),
    "nn.Hardtanh": lambda a, b: nn.Hardtanh(min(a, b), max(a, b) + 0.1),
    "hardtanh": lambda a, b: lambda x: F.hardtanh(x, min(a, b), max(a, b) + 0.1),
    "nn.ReLU": lambda a, b: nn.ReLU(),
    "relu method": lambda a, b: lambda x: x.relu(),
    "nn.ReLU6": lambda a, b: nn.ReLU6(),
    "relu6": lambda a, b: F.relu6,
    "nn.LeakyReLU": lambda a, b: nn.LeakyReLU(a),
    "leaky_relu": lambda a, b: lambda x: F.leaky_relu(x, a),
    "nn.PReLU": lambda a, b: nn.PReLU(init=a),
    "nn.RReLU": lambda a, b: nn.RReLU(min(a, b), max(a, b)),
    "nn.Threshold": lambda a, b: nn.Threshold(a, b),
    "threshold": lambda a, b: lambda x: F.threshold(x, a, b),
    "nn.ELU": lambda a, b: nn.ELU(a),
    "nn.CELU": lambda a, b: nn.CELU(a or 1.0),
    "nn.SELU": lambda a, b: nn.SELU(),
    "nn.GELU": lambda a, b: nn.GELU(),
    "nn.SiLU": lambda a, b: nn.SiLU(),
    "nn.Hardswish": lambda a, b: nn.Hardswish(),
    "nn.Hardsigmoid": lambda a, b: nn.Hardsigmoid(),
    "hardsigmoid": lambda a, b: F.hardsigmoid,
    "nn.Sigmoid": lambda a, b: nn.Sigmoid(),
    "nn.LogSigmoid": lambda a, b: nn.LogSigmoid(),
    "nn.Tanh": lambda a, b: nn.Tanh(),
    "nn.Hardshrink": lambda a, b: nn.Hardshrink(a),
    "nn.Softshrink": lambda a, b: nn.Softshrink(abs(a)),
    "clamp": lambda a, b: lambda x: torch.clamp(x, a, b),
    "clamp below": lambda a, b: lambda x: x.clamp(max=a),
    "clamp_min": lambda a, b: lambda x: x.clamp_min(a),
    "clip": lambda a, b: lambda x: x.clip(a),
    "abs": lambda a, b: torch.abs,
    "exp": lambda a, b: lambda x: x.exp(),
    "nn.Softmax": lambda a, b: nn.Softmax(1),
    "softmax": lambda a, b: lambda x: F.softmax(x, 2, dtype=torch.float64),
    "softmax method": lambda a, b: lambda x: x.softmax(-1),
    "nn.Softmax2d": lambda a, b: nn.Softmax2d(),
    "nn.Softmin": lambda a, b: nn.Softmin(1),
    "nn.Dropout": lambda a, b: nn.Dropout(min(abs(a), 1.0)),
    "nn.Dropout1d": lambda a, b: lambda x: F.dropout1d(x.flatten(2), min(abs(a), 1.0)),
    "nn.Dropout2d": lambda a, b: nn.Dropout2d(min(abs(a), 1.0)),
    "nn.AlphaDropout": lambda a, b: nn.AlphaDropout(min(abs(a), 0.9)),
    "dropout": lambda a, b: lambda x: F.dropout(x, min(abs(a), 1.0), True),
    "dropout that is off": lambda a, b: lambda x: F.dropout(x, 0.5, False),
    "avg_pool2d": lambda a, b: lambda x: F.avg_pool2d(x, 3, 2, 1, a > 0, b > 0),
    "avg_pool2d with a divisor": lambda a, b: lambda x: F.avg_pool2d(x, 2, divisor_override=int(a) or 1),
    "nn.AvgPool2d": lambda a, b: nn.AvgPool2d(3, 2, 1, a > 0, b > 0, int(a) or None),
    "nn.AvgPool1d": lambda a, b: lambda x: F.avg_pool1d(x.flatten(2), 3, 1, 1, a > 0, b > 0),
    "lp_pool2d": lambda a, b: lambda x: F.lp_pool2d(x, 2, 2),
    "max_pool2d": lambda a, b: lambda x: F.max_pool2d(x, 3, 2, 1, 1, a > 0),
    "dilated max_pool2d": lambda a, b: lambda x: F.max_pool2d(x, 2, 1, 1, dilation=3),
    "nn.MaxPool2d": lambda a, b: nn.MaxPool2d(3, 2, 1, ceil_mode=a > 0),
    "nn.MaxPool2d with indices": lambda a, b: nn.MaxPool2d(2, return_indices=True),
    "nn.AdaptiveAvgPool2d": lambda a, b: nn.AdaptiveAvgPool2d((3, 4)),
    "nn.AdaptiveMaxPool2d": lambda a, b: nn.AdaptiveMaxPool2d((3, 4)),
    "adaptive_max_pool2d with indices": lambda a, b: lambda x: F.adaptive_max_pool2d(x, 2, True),
    "pad": lambda a, b: lambda x: F.pad(x, (1, 0, -1, 2), value=a),
    "pad by position": lambda a, b: lambda x: F.pad(x, (1, 1), "constant", a),
    "reflected pad": lambda a, b: lambda x: F.pad(x, (1, 1, 0, 2), mode="reflect"),
    "nn.ZeroPad2d": lambda a, b: nn.ZeroPad2d((1, -1, 0, 2)),
    "nn.ConstantPad2d": lambda a, b: nn.ConstantPad2d(1, a),
    **{f"interpolate {mode}": partial(_interpolation, mode)
       for mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact")},
    "smoothed interpolate": lambda a, b: lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    "smoothed bicubic": lambda a, b: lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    "nn.Upsample": lambda a, b: nn.Upsample(scale_factor=1.7, mode="bilinear", align_corners=a > 0),
    "nn.Upsample bicubic": lambda a, b: nn.Upsample(scale_factor=1.7, mode="bicubic"),
    "mean": lambda a, b: lambda x: x.mean((2, 3)),
    "mean in a dtype": lambda a, b: lambda x: torch.mean(x, 1, dtype=torch.float32),
    "memory read as a dtype": lambda a, b: lambda x: x.view(torch.float32),
    "memory read as another's dtype": lambda a, b: lambda x: x.view(x.float().dtype),
    "reshape": lambda a, b: lambda x: x.reshape(x.shape[0], -1),
    "transpose": lambda a, b: lambda x: torch.transpose(x, 1, 2),
    "part": lambda a, b: lambda x: x[:, 1:3],
    "chunk": lambda a, b: lambda x: x.chunk(2, 1)[1],
    "cat": lambda a, b: lambda x: torch.cat([x, x * a], 1),
    "stack": lambda a, b: lambda x: torch.stack([x, x + a]),
    "sum": lambda a, b: lambda x: x + x * a,
    "sum with a factor": lambda a, b: lambda x: torch.add(x, x, alpha=a),
    "number first": lambda a, b: lambda x: a + b * x,
    "square": lambda a, b: lambda x: x * x,
    "product": lambda a, b: lambda x: torch.mul(x, x - a),
    "difference": lambda a, b: lambda x: x - a,
    "quotient": lambda a, b: lambda x: x / (a or 1.0),
    "conv": lambda a, b: nn.Conv2d(4, 3, 3, bias=a > 0),
    "nn.PixelShuffle": lambda a, b: nn.PixelShuffle(2),
    "nn.ChannelShuffle": lambda a, b: nn.ChannelShuffle(2),
    "nn.LocalResponseNorm": lambda a, b: nn.LocalResponseNorm(2),
    "expand": lambda a, b: lambda x: x[:, :1].expand(-1, 3, -1, -1),
}  # fmt: skip


def images(seed: int, size: float) -> torch.Tensor:
    """Return images with values of either sign, zeros among them, up to about ``size``."""
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(x.abs() < 0.2, torch.zeros_like(x), x * size)


def model_of(op: Op, source: Op) -> nn.Module:
    layers = {"layer": op} if isinstance(op, nn.Module) else {}
    return Wrapped(lambda m, x: (m.layer if layers else op)(source(x)), **layers)


def last_node(graph: fx.GraphModule) -> fx.Node:
    output = next(iter(graph.graph.find_nodes(op="output")))
    nodes: list[fx.Node] = output.all_input_nodes
    return nodes[-1]


def run(graph: fx.GraphModule, x: torch.Tensor, training: bool) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return graph.train(training)(x)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(OPS)), NUMBERS, NUMBERS, st.sampled_from(SOURCES), st.sampled_from([0.1, 3.0, 50.0]),
    st.integers(0, 99),
)  # fmt: skip
def test_values_lie_between_their_bounds(name: str, a: float, b: float, source: Op, size: float, seed: int) -> None:
    graph = traced(model_of(OPS[name](a, b), source), images(seed, size))
    low, high = bounds_of_values(graph)[last_node(graph)]
    if (low, high) == UNKNOWN:
        return
    for training in (False, True):
        found = run(graph, images(seed + 1, size), training)
        for y in found if isinstance(found, tuple) else (found,):
            slack = 1e-9 * max(1.0, float(y.abs().max()))
            assert low - slack <= y.min(), (name, a, b, training)
            assert y.max() <= high + slack, (name, a, b, training)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(OPS)), NUMBERS, NUMBERS, st.sampled_from([0.5, 3.0, -2.0, 0.0]), st.integers(0, 99))
def test_factors_pass_through_where_it_is_said(name: str, a: float, b: float, factor: float, seed: int) -> None:
    graph = traced(model_of(OPS[name](a, b), lambda x: x), images(seed, 3.0))
    node, x = last_node(graph), images(seed + 1, 3.0)
    if not (node.all_input_nodes and node.args[0] is next(iter(graph.graph.nodes)) and passes_factor(node, factor)):
        return
    for training in (False, True):
        scaled, plain = run(graph, factor * x, training), run(graph, x, training)
        assert isinstance(plain, torch.Tensor), name
        torch.testing.assert_close(scaled, factor * plain, rtol=1e-12, atol=1e-12, msg=f"{name} {a} {b} {training}")
