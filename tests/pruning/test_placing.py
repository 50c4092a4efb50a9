"""Layers of a graph at their places in a model, whatever its forward makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneError
from fxprune.pruning.placing import place_layers, recount, whole_call


def shrunk(layer: nn.Module, *shape: int) -> Any:
    """Return ``layer`` with a weight of another shape, which its attributes count."""
    layer.weight = nn.Parameter(torch.zeros(*shape))
    recount(layer)
    return layer


def test_attributes_count_the_weight() -> None:
    conv = shrunk(nn.Conv2d(8, 16, 3), 4, 5, 3, 3)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (5, 4, 1)
    grouped = shrunk(nn.Conv2d(8, 16, 3, groups=2), 4, 3, 3, 3)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (6, 4, 2)
    depthwise = shrunk(nn.Conv2d(8, 16, 3, groups=8), 6, 1, 3, 3)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (3, 6, 3)
    gray = shrunk(nn.Conv2d(1, 16, 3), 4, 1, 3, 3)
    assert (gray.in_channels, gray.out_channels, gray.groups) == (1, 4, 1)
    transposed = shrunk(nn.ConvTranspose2d(8, 16, 3, groups=2), 6, 4, 3, 3)
    assert (transposed.in_channels, transposed.out_channels) == (6, 8)
    linear = shrunk(nn.Linear(8, 16), 4, 5)
    assert (linear.in_features, linear.out_features) == (5, 4)
    assert shrunk(nn.BatchNorm2d(8), 3).num_features == 3
    assert shrunk(nn.GroupNorm(1, 8), 3).num_channels == 3
    assert shrunk(nn.LayerNorm(8), 3).normalized_shape == (3,)
    assert shrunk(nn.Embedding(5, 8), 5, 3).embedding_dim == 3
    recount(nn.ReLU())


class Spare(nn.Module):
    """A model with layers that it never calls, and one whose output it drops."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.spare = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.dropped = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        self.dropped(x)
        return self.last(x)


def test_what_is_never_called_stays_and_what_nobody_reads_is_an_identity() -> None:
    model: Any = Spare()
    graph = passes.EliminateDeadCode()(fxprune.trace(model, torch.randn(2, 3, 4, 4))).graph_module
    assert whole_call(model, graph) is None
    assert place_layers(model, graph, ["", "first", "dropped", "last"]) == ["dropped"]
    assert type(model.dropped) is nn.Identity
    assert type(model.spare) is nn.Conv2d


def test_other_layers_under_two_names_of_one_are_refused() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), torch.randn(2, 3, 4, 4))
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(FxpruneError, match="its 1 has several names, and the graph other layers under each"):
        place_layers(nn.Sequential(conv, conv), graph, [])
