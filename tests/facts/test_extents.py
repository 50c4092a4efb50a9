"""Extents: values that are said to have one shape for every input have it, on images of other sizes too."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import nn
from torch.nn import functional

from fxprune.facts.extents import Extent, extents_of
from fxprune.facts.shapes import same_shape, values_of

Function = Callable[[Any, torch.Tensor], Any]


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1, **options})


def extents(function: Function) -> tuple[Extent, Extent]:
    """Return the extents of the two values that ``function`` returns."""
    layers: dict[str, Any] = {
        "conv": conv(),
        "norm": nn.BatchNorm2d(4),
        "strided": conv(stride=2),
        "linear": nn.Linear(8, 8),
    }
    layers |= {"layer_norm": nn.LayerNorm(8), "relu6": nn.ReLU6(), "gelu": nn.GELU(), "max": nn.MaxPool2d(3, 2, 1)}
    graph = traced(Wrapped(function, **layers), example(2, 4, 8, 8)).graph
    returned: Any = graph.output_node().args[0]
    first, second = returned
    found = extents_of(graph)
    return found[first], found[second]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (x, functional.relu(x)),
        lambda m, x: (x, m.relu6(m.norm(x))),
        lambda m, x: (x, torch.sigmoid(functional.silu(x))),
        lambda m, x: (m.conv(x), m.conv(functional.hardswish(x))),
        lambda m, x: (m.conv(x), m.conv(x) * 0.5),
        lambda m, x: (m.conv(x), 0.5 * m.conv(x)),
        lambda m, x: (m.conv(x), m.conv(x) + m.conv(x)),
        lambda m, x: (m.linear(x), functional.linear(x, m.linear.weight)),
        lambda m, x: (m.strided(x), m.conv(x[:, :, ::2, ::2])),
        lambda m, x: (m.conv(x), functional.pad(m.conv(x), (0, 0, 0, 0, 1, 2))),  # but for channels
        lambda m, x: (x, torch.sigmoid(functional.adaptive_avg_pool2d(x, 1)) * x),
    ],
)
def test_one_extent(function: Function) -> None:
    first, second = extents(function)
    assert first == second


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (m.conv(x), m.layer_norm(m.conv(x))),
        lambda m, x: (m.conv(x), functional.gelu(m.conv(x))),
        lambda m, x: (m.conv(x), m.gelu(m.conv(x))),
        lambda m, x: (m.conv(x), functional.dropout(m.conv(x), 0.5)),
        lambda m, x: (m.conv(x), m.norm(x)),
        lambda m, x: (m.conv(x), m.linear(x)),
        lambda m, x: (m.strided(x), m.max(x)),
        lambda m, x: (m.conv(x) * m.conv(x), m.conv(x)),
    ],
)
def test_one_size_of_perhaps_another_dtype(function: Function) -> None:
    first, second = extents(function)
    assert first != second
    assert first.sizes() == second.sizes()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (m.conv(x), m.strided(x)),
        lambda m, x: (x[:, :, ::2, ::2], x[:, :, :4, :4]),
        lambda m, x: (x[:, :, ::2], x[:, :, :, ::2]),
        lambda m, x: (x[::2], x),
        lambda m, x: (x[:, ::2], x),
        lambda m, x: (x[:, :, 0], x),
        lambda m, x: (functional.max_pool2d(x, 3, 2, 1), m.max(x)),  # a layer alone is known
        lambda m, x: (x.permute(0, 1, 3, 2), x),
        lambda m, x: (functional.pad(x, (1, 1)), x),
        lambda m, x: (functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 1)), x),
        lambda m, x: (functional.pad(x, (1, 1, 0, 0), "replicate"), x),
        lambda m, x: (x.flatten(2), x),
        lambda m, x: (functional.adaptive_avg_pool2d(x, 1), x),
        lambda m, x: (functional.adaptive_avg_pool2d(x, 2), functional.adaptive_avg_pool2d(x, 1)),
        lambda m, x: (x + x.mean(1, keepdim=True), x),  # may spread
        lambda m, x: (x * x.mean(1, keepdim=True), x),
        lambda m, x: (torch.cat([x, x], 1), x),
    ],
)
def test_other_sizes(function: Function) -> None:
    first, second = extents(function)
    assert first.sizes() != second.sizes()


@pytest.mark.parametrize("size", [1, (1, 1), [1, 1]])
def test_what_is_pooled_to_one_position(size: Any) -> None:
    layer = Wrapped(lambda m, x: m.pool(x), pool=nn.AdaptiveAvgPool2d(size))
    for model in (Wrapped(lambda m, x: functional.adaptive_avg_pool2d(x, size)), layer):
        x, pooled, _ = extents_of(traced(model, example(2, 4, 8, 8)).graph).values()
        assert pooled == x._replace(pooled=True)


LAYERS = [
    *(conv(), conv(stride=2), conv(padding=0), conv(padding=2, dilation=2), conv(kernel_size=2, stride=(2, 1))),
    *(conv(padding="same"), conv(kernel_size=1, stride=2, padding="valid"), nn.MaxPool2d(3, 2, 1)),
    *(nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 1, 1, dilation=2)),
    *(nn.ReLU(), nn.GELU(), nn.BatchNorm2d(4), nn.ZeroPad2d(1)),
]


class Drawn(nn.Module):
    """Random layers and slices, each of one of the values so far; all of them are returned."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.layers = nn.ModuleList(copy.deepcopy(chance.choices(LAYERS, k=24)))
        self.sources = [chance.randrange(1 + n // 3) for n in range(24)]  # not deep: images stay large
        self.steps = [chance.choice([None, None, None, 1, 2]) for _ in range(24)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values = [x]
        for layer, source, step in zip(self.layers, self.sources, self.steps, strict=True):
            values.append(layer(values[source]) if step is None else values[source][:, :, ::step, ::2])
        return values


@pytest.mark.parametrize("seed", range(20))
def test_one_extent_is_one_shape_for_every_image(seed: int) -> None:
    graph = traced(Drawn(seed), example(2, 4, 128, 128))
    found = extents_of(graph.graph)
    pairs = [
        (a, b)
        for a, b in itertools.combinations(graph.graph.find_nodes(op="call_module"), 2)
        if found[a].sizes() == found[b].sizes() and same_shape(a, b)
    ]
    assert pairs
    for size in ((3, 4, 129, 143), (1, 4, 134, 116)):
        values = values_of(graph, [example(*size)])
        assert all(values[a].shape == values[b].shape for a, b in pairs)
