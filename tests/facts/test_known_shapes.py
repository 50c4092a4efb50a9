"""Shapes that are told without calling anything are those that a call has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import example, traced
from torch import nn
from torch.nn import functional

from fxprune.errors import TraceError
from fxprune.facts.shapes import META, propagate_shapes

Function = Callable[[Any, torch.Tensor], torch.Tensor]


class Calls(nn.Module):
    """Calls a function on itself and its input."""

    def __init__(self, function: Function, layer: nn.Module | None) -> None:
        super().__init__()
        self.function, self.layer = function, layer
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def added(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x += y
    return x


def multiplied(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x *= y
    return x


CONVS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(4, 8, (3, 5), padding=(0, 2), dilation=(2, 1), groups=2),
    nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 4, 5, padding="valid"),
    nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
]


@pytest.mark.parametrize(
    "layer",
    [
        *(*CONVS, nn.Linear(8, 5), nn.LayerNorm(8), nn.LayerNorm((8, 8)), nn.BatchNorm2d(4), nn.SiLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, None)), nn.AdaptiveMaxPool2d(3), nn.MaxPool2d(3, 2, 1)),
        *(nn.AvgPool2d(2, ceil_mode=True), nn.ZeroPad2d(1), nn.Flatten(), nn.PixelShuffle(2)),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_of_layers(layer: nn.Module, channels_last: bool) -> None:
    x = example(2, 4, 8, 8)
    compare(lambda m, x: m.layer(x), x.to(memory_format=torch.channels_last) if channels_last else x, layer)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.cat([x, x[:, :2]], 1),
        lambda m, x: torch.cat([x, x], dim=-1),
        lambda m, x: x + x,
        lambda m, x: x * m.scale,
        lambda m, x: functional.relu(x.permute(0, 2, 3, 1)),
        lambda m, x: functional.layer_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-6),
        lambda m, x: functional.layer_norm(x, (8,)).transpose(1, 2).contiguous(),
        lambda m, x: x.permute(0, 2, 3, 1).flatten(1) + x.permute(0, 2, 3, 1).flatten(1),
        lambda m, x: functional.layer_norm(x.permute(0, 2, 3, 1), [4], weight=m.scale.flatten()),
        lambda m, x: m.scale * x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda m, x: x + x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda m, x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) * x[:1, :, :1],
        lambda m, x: added(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x),
        lambda m, x: multiplied(x + 1, m.scale),
        lambda m, x: x.mean((2, 3), keepdim=True) * x,
        lambda m, x: x[:, :1] * x[:, :, :1],
        lambda m, x: functional.pad(x[:, :, ::2, 1::2], (0, 0, 0, 0, 2, 2)),
        lambda m, x: functional.adaptive_avg_pool2d(x.permute(0, 2, 3, 1), 1).flatten(1),
        lambda m, x: functional.adaptive_avg_pool2d(x[0], (2, 4)),
        lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda m, x: x[:, None, ..., 0] * m.scale.view(1, 4, 1),
        lambda m, x: torch.cat([m.scale.expand(4, 8, 8)[None], x.transpose(2, 3)]),
        lambda m, x: x.view(torch.int32).view(2, -1).view(torch.float32),
        lambda m, x: functional.relu(x.unsqueeze(0).expand(3, -1, -1, -1, -1)),
    ],
)
def test_of_functions(function: Function) -> None:
    compare(function, example(2, 4, 8, 8))


def test_views_share_memory() -> None:
    """A view that is told without a call is known to be one: what is written to its base shows in it."""

    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            base = x + 1
            view = base[:, ::2].permute(0, 2, 3, 1)
            base.mul_(2)
            return view

    graph = traced(Writes(), example(2, 4, 8, 8)).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]  # it is one opaque call


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.Linear(8, 5), nn.MaxPool2d(8)])
def test_what_does_not_fit_is_refused(layer: nn.Module) -> None:
    graph = traced(nn.Sequential(layer), example(2, 4, 8, 8))
    with pytest.raises(TraceError, match="do not fit"):
        propagate_shapes(graph, (example(2, 4, 3, 3).double(),))


def compare(function: Function, x: torch.Tensor, layer: nn.Module | None = None) -> None:
    """Compare the metadata of every value with what a run gives; both calls of the function, known and repeated."""
    graph = traced(Calls(lambda m, x: function(m, x).sum() + function(m, x).sum(), layer), x)
    values: dict[str, torch.Tensor] = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Keep(graph).run(x)
    for node in graph.graph.nodes:
        if isinstance(values[node.name], torch.Tensor) and node.op != "output":
            meta, real = node.meta[META], values[node.name]
            assert (meta.shape, meta.dtype, meta.stride) == (real.shape, real.dtype, real.stride()), node
