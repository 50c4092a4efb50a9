"""Shapes that are told without calling anything are those that a call has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import example, traced
from torch import nn
from torch.nn import functional

from fxprune.facts.shapes import META

Function = Callable[[Any, torch.Tensor], torch.Tensor]


class Calls(nn.Module):
    """Calls a function on itself and its input."""

    def __init__(self, function: Function, layer: nn.Module | None) -> None:
        super().__init__()
        self.function, self.layer = function, layer
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


CONVS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(4, 8, (3, 5), padding=(0, 2), dilation=(2, 1), groups=2),
    nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 4, 5, padding="valid"),
    nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
]


@pytest.mark.parametrize(
    "layer", [*CONVS, nn.Linear(8, 5), nn.LayerNorm(8), nn.BatchNorm2d(4), nn.SiLU(inplace=True)]
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
    ],
)
def test_of_functions(function: Function) -> None:
    compare(function, example(2, 4, 8, 8))


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
