"""Bounds of values: what an op's options, dtypes and neighbours change about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, assert_rewrites, example, traced
from torch import nn
from torch.nn import functional

from fxprune import passes
from fxprune.facts.ranges import UNKNOWN, bounds_of_values

Function = Callable[[Any, torch.Tensor], torch.Tensor]


def bounds_of(function: Function, **layers: nn.Module) -> tuple[float, float]:
    """Return the bounds of what ``function`` returns."""
    graph = traced(Wrapped(function, **layers), example(2, 4, 6, 6))
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return bounds_of_values(graph)[output.args[0]]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: functional.relu6(x).mean((2, 3)), (0.0, 6.0)),
        (lambda m, x: functional.relu6(x).chunk(2, 1)[1], (0.0, 6.0)),
        (lambda m, x: functional.max_pool2d(functional.relu6(x), 3, 2, 1, ceil_mode=True), (0.0, 6.0)),
        (lambda m, x: functional.avg_pool2d(functional.relu6(x) + 1, 3, 2, 1), (0.0, 7.0)),
        (lambda m, x: functional.softplus(x, 2.0), (0.0, math.inf)),
        (lambda m, x: torch.clamp(x, 0), (0.0, math.inf)),
        (lambda m, x: torch.tanh(functional.relu(x)), (0.0, 1.0)),
        (lambda m, x: functional.hardtanh(x, max_val=3.0), (-1.0, 3.0)),
        (lambda m, x: 1 - functional.relu(x), (-math.inf, 1.0)),
        (lambda m, x: functional.relu6(x) * torch.sigmoid(x) - 0.5, (-0.5, 5.5)),
        (lambda m, x: torch.atan(functional.relu6(x)), UNKNOWN),
        (lambda m, x: functional.relu6(x) * torch.sigmoid(x), (0.0, 6.0)),
        (lambda m, x: functional.relu6(x) * -2.0 + 1.0, (-11.0, 1.0)),
    ],
)
def test_known_bounds(function: Function, expected: tuple[float, float]) -> None:
    assert bounds_of(function) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: functional.softplus(x, -1.0),
        lambda m, x: functional.softplus(x, beta=-1.0),
        lambda m, x: functional.softplus(x, 1.0, -20.0),  # the identity above -20
        lambda m, x: functional.softplus(x, threshold=-20.0),
        lambda m, x: m.early(x),
        lambda m, x: torch.sigmoid(x).view(x.long().double().dtype),  # memory read as a dtype
        lambda m, x: m.softplus(x),
        lambda m, x: functional.max_pool2d(torch.sigmoid(x), 2, 1, 1, 7),  # some windows hold padding alone: -inf
        lambda m, x: functional.max_pool2d(torch.sigmoid(x), 2, 1, 1, dilation=7),
        lambda m, x: m.pool(torch.sigmoid(x)),
        lambda m, x: functional.max_pool2d(torch.sigmoid(x), 2, 2, 0, 1, False, True)[1],
        lambda m, x: functional.max_pool2d(torch.sigmoid(x), 2, return_indices=True)[1],
        lambda m, x: m.indices(torch.sigmoid(x))[1],
        lambda m, x: (x * 100).to(torch.int8) * (x * 100).to(torch.int8),  # wraps around
        lambda m, x: (lambda n: n * n)((x * 100).to(torch.int8)),
        lambda m, x: torch.abs((x * 100).to(torch.int8)),  # abs(-128) is -128
        lambda m, x: torch.sigmoid(x).view(torch.int64),
        lambda m, x: functional.pad(torch.sigmoid(x), (1, 1), value=math.nan),
        lambda m, x: torch.sigmoid(x) * math.inf,
        lambda m, x: functional.avg_pool2d(torch.sigmoid(x), 2, 2, 0, False, True, -3),
        lambda m, x: functional.avg_pool2d(torch.sigmoid(x), 2, divisor_override=-3),
        lambda m, x: torch.add(torch.sigmoid(x), torch.sigmoid(x), alpha=-3),
        lambda m, x: functional.interpolate(torch.sigmoid(x), scale_factor=2, mode="bicubic"),
        lambda m, x: torch.where(x > 0, torch.sigmoid(x), x),
        lambda m, x: torch.max(torch.sigmoid(x), 1)[1],
        lambda m, x: torch.clamp(x, x * 2.0),
    ],
)
def test_what_is_otherwise_than_it_looks_has_no_bounds(function: Function) -> None:
    layers = {
        "softplus": nn.Softplus(-1.0),
        "early": nn.Softplus(1.0, -20.0),
        "pool": nn.MaxPool2d(2, 1, 1, 7),
        "indices": nn.MaxPool2d(2, return_indices=True),
    }
    assert bounds_of(function, **layers) == UNKNOWN


def test_a_subclass_of_a_conv_may_compute_something_else() -> None:
    class Shifted(nn.Conv2d):
        pass

    Shifted.__module__ = "torch.nn.modules.conv"  # to be a leaf
    layer = Shifted(4, 4, 1, bias=False)
    assert bounds_of(lambda m, x: m.layer(x * 0.0), layer=layer) == UNKNOWN


class Updating(nn.Module):
    """Reads a buffer, then updates it in place, then uses what it read."""

    state: torch.Tensor

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.register_buffer("state", torch.rand(4, 4))
        self.conv = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _read(first: Function, then: Callable[[Any, Any], Any] = lambda m, y: y) -> Function:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = first(m, x)
        m.state.add_(1)
        result: torch.Tensor = then(m, y)
        return result

    return function


@pytest.mark.parametrize(
    "function",
    [
        _read(lambda m, x: m.state * 1.0),
        _read(lambda m, x: m.state + 0.0),
        _read(lambda m, x: m.state * 0.5, lambda m, y: y * 3.0),
        _read(lambda m, x: m.state * 0.5 + m.state),
        _read(lambda m, x: m.state * 0.5, lambda m, y: m.conv(y)),
        _read(lambda m, x: torch.sigmoid(m.state), lambda m, y: torch.relu(y)),
        _read(lambda m, x: m.state + x * 0.0),
        _read(lambda m, x: m.state.t() * 1.0),
    ],
)
def test_no_read_of_a_buffer_moves_past_its_update(function: Function) -> None:
    graph = traced(Updating(function), example(4, 4))
    assert any(node.target == "add_" for node in graph.graph.nodes)
    result = passes.Simplify()(graph)
    x = example(4, 4, seed=1)
    before = graph(x)
    graph.get_buffer("state").sub_(1)
    after = result.graph_module(x)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def test_a_conv_of_zeros_with_hooks_stays() -> None:
    graph = traced(Wrapped(lambda m, x: x + m.conv(x * 0.0), conv=nn.Conv2d(4, 4, 1)), example(2, 4, 6, 6))
    graph.get_submodule("conv").register_forward_hook(lambda m, args, y: y + 1)
    assert_rewrites(graph, passes.PropagateZeros(), count=0)


def test_reinterpreted_memory_takes_no_factor() -> None:
    graph = traced(
        Wrapped(lambda m, x: m.linear((x * 2.0).view(torch.int64).to(x.dtype)), linear=nn.Linear(6, 6)),
        example(2, 4, 6, 6),
    )
    assert_rewrites(graph, passes.FoldScale(), count=0)
    model = Wrapped(lambda m, x: m.conv(x).view(torch.float32) * 2.0, conv=nn.Conv2d(4, 4, 1))
    assert_rewrites(traced(model, example(2, 4, 6, 6)), passes.FoldScale(), count=0)


def test_drop_block_in_eval_mode_goes() -> None:
    ops = pytest.importorskip("torchvision.ops")
    graph = traced(Wrapped(lambda m, x: m.drop(x), drop=ops.DropBlock2d(0.5, 3)), example(2, 4, 6, 6))
    result = passes.DropDropout()(graph)
    assert not [site for site in result.declined if "train mode" in site.why]
