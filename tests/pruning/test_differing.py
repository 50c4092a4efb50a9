"""Where a model parts from a graph is told by its line, or by the first module that returns something else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.pruning.differing import place_of_difference


class Net(nn.Module):
    """Two layers, and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.factor = 1.0

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.first(x)) * self.factor
        if self.factor == 3:
            self.last(x)
        return self.last(x)


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def told(model: nn.Module, graph: fx.GraphModule, before: nn.Module | None = None) -> str:
    return place_of_difference(model, graph, before or model, [torch.ones(2, 3, 4, 4)], None)


def graph_of(model: nn.Module) -> fx.GraphModule:
    return fxprune.trace(model, torch.ones(2, 3, 4, 4))


def test_the_first_layer_that_returns_other_values(model: Net) -> None:
    graph, other = graph_of(model), copy.deepcopy(model)
    other.factor = 2.0
    place = told(other, graph, nn.Identity())
    assert place.startswith("last, called in test_differing.py:")
    assert place.endswith("`return self.last(x)`, returns other values than in the graph")


def test_a_layer_that_returns_another_shape(model: Net) -> None:
    graph, other = graph_of(model), copy.deepcopy(model)
    other.last = nn.Conv2d(8, 3, 1)
    assert told(other, graph, nn.Identity()).endswith("returns (2, 3, 4, 4), in the graph (2, 2, 4, 4)")


def test_a_layer_that_is_called_once_more(model: Net) -> None:
    model.factor = 3.0
    graph = passes.EliminateDeadCode()(graph_of(model)).graph_module
    assert told(model, graph, nn.Identity()).endswith("`return self.last(x)`, is called once more than in the graph")


def test_what_differs_after_the_last_layer(model: Net) -> None:
    assert told(model, graph_of(model)) == "it computes something else than the graph after last"


def test_a_line_that_counts_channels(model: Net) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv1d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.conv(x).reshape(-1, 8, 16))

    viewing = Viewing()
    graph = passes.RemoveChannels(ratio=0.5)(graph_of(viewing)).graph_module
    place = told(viewing, graph)
    assert place.startswith("test_differing.py:")
    assert (
        "`return self.head(self.conv(x).reshape(-1, 8, 16))` has (-1, 8, 16) where the graph has (-1, 4, 16)" in place
    )
    error = RuntimeError("of the user's")
    place = place_of_difference(viewing, graph, viewing, [torch.ones(2, 3, 4, 4)], error)
    assert place.endswith("; it fails: in forward: of the user's")
