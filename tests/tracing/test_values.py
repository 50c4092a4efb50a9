"""Tier 2: branches on what the example is like take its way, and the graph checks that it is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.ir.trace_notes import assumptions_of, tier_of
from fxprune.ops.call import is_conv


def same_padding(size: int, kernel: int, stride: int) -> int:
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


class ConvSame(nn.Conv2d):
    """TensorFlow's "same" padding, as timm writes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.size()[-2:]
        rows, columns = same_padding(height, 3, self.stride[0]), same_padding(width, 3, self.stride[1])
        if rows > 0 or columns > 0:
            x = functional.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return functional.conv2d(x, self.weight, self.bias, self.stride)


def test_sizes_used_as_data_stay_symbolic() -> None:
    model = nn.Sequential(ConvSame(3, 4, 3, stride=2)).double()
    graph = traced(model, example(2, 3, 9, 9))
    assert sum(is_conv(node) for node in graph.graph.nodes) == 1
    for size in (7, 11, 12):
        x = example(1, 3, size, size)
        torch.testing.assert_close(graph(x), model(x))
    assert [one.what for one in assumptions_of(graph)] == [
        "len(input_1.size()[-2:]) is 2",
        "max(add - getitem_1, 0) > 0 is True",
    ]


def test_an_assumption_that_fails_is_a_readable_message() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 2:
            x = functional.pad(x, [0, 1])
        return m.conv(x)  # type: ignore[no-any-return]

    graph = traced(Wrapped(function, conv=nn.Conv2d(3, 4, 1)), example(2, 3, 8, 8))
    (assumption,) = assumptions_of(graph)
    assert assumption.node in [node.name for node in graph.graph.nodes]
    assert graph(example(5, 3, 4, 4)).shape == (5, 4, 4, 4)
    with pytest.raises(AssertionError, match=r"test_values\.py:\d+: `if x\.shape\[-1\] % 2:`: .* x\.shape\[-1\] % 2"):
        graph(example(2, 3, 8, 7))


def test_assumptions_survive_passes() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.conv(x) if x.shape[1] == 4 else x

    model = Wrapped(function, conv=nn.Conv2d(4, 4, 3, padding=1))
    graph = traced(model, example(2, 4, 8, 8))
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.Simplify()])(graph).graph_module
    assert assumptions_of(result) == assumptions_of(graph)
    with pytest.raises(AssertionError, match="trace the model on inputs like them"):
        result(example(2, 5, 8, 8))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x) if isinstance(x, torch.Tensor) else x,
        lambda m, x: m.conv(x) if torch.is_tensor(x) else x,
        lambda m, x: m.conv(x) if x.dtype == torch.float64 else x,
        lambda m, x: m.conv(x) if x.device.type != "meta" else x,
        lambda m, x: m.conv(x) if hasattr(x, "shape") and not hasattr(x, "tensors") else x,
        lambda m, x: m.conv(x) + sum(1 for _ in range(x.shape[1])),
        lambda m, x: m.conv(x) + len(x) * torch.ones(x.shape[-2:], dtype=x.dtype),
        lambda m, x: torch.stack([m.conv(part[None]) for part in x]),
        lambda m, x: m.conv(x) * torch.arange(x.shape[-1]),
        lambda m, x: sum(m.conv(part).mean() for part in x.split(1)),
        lambda m, x: m.conv(x.new_ones([int(size) for size in x.shape])) if round(x.shape[0] / 3) == 1 else x,
    ],
)
def test_what_a_model_may_ask(function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    model = Wrapped(function, conv=nn.Conv2d(4, 4, 3, padding=1))
    graph = traced(model, example(2, 4, 6, 6))
    assert any(is_conv(node) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(example(2, 4, 6, 6)), model(example(2, 4, 6, 6)))


def test_a_chunk_that_is_appended_to() -> None:
    """YOLO's C2f: the parts of a chunk, and what is computed from the last of them, concatenated."""

    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        parts = list(m.first(x).chunk(2, 1))
        parts.extend(layer(parts[-1]) for layer in m.layers)
        return m.last(torch.cat(parts, 1))  # type: ignore[no-any-return]

    layers = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
    model = Wrapped(function, first=nn.Conv2d(3, 8, 1), layers=layers, last=nn.Conv2d(16, 5, 1))
    graph = traced(model, example(2, 3, 6, 6))
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv()])(graph)
    assert len(result.steps[0].result.rewritten) == 2
    torch.testing.assert_close(result.graph_module(example(3, 3, 5, 5)), model(example(3, 3, 5, 5)))


def test_channel_shuffle() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return m.conv(x.view(batch, -1, height, width))  # type: ignore[no-any-return]

    model = Wrapped(function, conv=nn.Conv2d(4, 4, 3, padding=1, groups=2))
    graph = traced(model, example(2, 4, 6, 6))
    torch.testing.assert_close(graph(example(3, 4, 5, 7)), model(example(3, 4, 5, 7)))
    assert [one.what for one in assumptions_of(graph)] == ["size has 4 entries"]


def test_builtins_are_given_back() -> None:
    before = (isinstance, max, min, torch.zeros)
    traced(Wrapped(lambda m, x: x if isinstance(x, torch.Tensor) else x + 1), example(2, 2))
    assert before == (isinstance, max, min, torch.zeros)


class Autocasting(nn.Module):
    """Asks for its input's device, and leaves autocast there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x.shape) != 2:
            raise ValueError("two axes")
        with torch.autocast(device_type=x.device.type, enabled=False):
            return torch.relu(x)


def test_autocast_on_the_inputs_device_is_no_assumption() -> None:
    graph = fxprune.trace(Autocasting(), torch.randn(2, 3))
    assert tier_of(graph) == "values"
    assert not [one for one in assumptions_of(graph) if "device" in one.what]
