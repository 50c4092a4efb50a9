"""Models that are run as their graphs are, and watched."""

from __future__ import annotations

from typing import Any

import torch
from helpers import assert_state_equal, state_of
from torch import nn

import fxprune
from fxprune.pruning.model_runs import arranged, input_names, run_graph_float64, run_model_float64, train_error
from fxprune.rewriting.float64 import run_float64


class Taking(nn.Module):
    """Takes inputs in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, a: torch.Tensor, *others: torch.Tensor, scale: torch.Tensor, **more: torch.Tensor) -> Any:
        x = self.layers(a) + sum(self.layers(one).float() for one in others)
        if self.training:
            return x * scale - more["shift"].view(1, -1)
        return x * scale + more["shift"]


def inputs() -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return (torch.randn(2, 3), torch.randn(2, 3)), {"scale": torch.ones(1), "shift": torch.ones(1)}


def test_inputs_are_arranged_as_forward_takes_them() -> None:
    named = {"a": 1, "others_0": 2, "others_1": 3, "scale": 4, "shift": 5}
    assert arranged(Taking(), named) == ((1, 2, 3), {"scale": 4, "shift": 5})


def test_a_model_runs_as_its_graph_does_and_nothing_in_it_changes() -> None:
    model, (args, kwargs) = Taking(), inputs()
    graph = fxprune.trace(model, args, kwargs)
    state, values = state_of(model), [*args, *kwargs.values()]
    assert input_names(graph) == ["a", "others_0", "scale", "shift"]
    found, seen = run_model_float64(model, graph, values, ["layers.0", "layers.1"])
    assert torch.equal(found[0], run_float64(graph, values)[0])
    assert found[0].dtype is torch.float64
    assert [one.path for one in seen] == ["layers.0", "layers.1"] * 2
    assert seen[0].shapes == ((2, 4),)
    assert seen[0].line.startswith("test_model_runs.py:")
    twins = run_graph_float64(graph, values, {"layers.0": "layers.0"})
    assert [float(one.sums[0]) for one in twins] == [float(one.sums[0]) for one in seen[::2]]
    assert_state_equal(model, state)
    assert not any(module._forward_hooks for module in (*model.modules(), *graph.modules()))


def test_an_error_in_train_mode_is_told_where_the_graph_takes_the_inputs() -> None:
    model, (args, kwargs) = Taking(), inputs()
    graph = fxprune.trace(model, args, kwargs)
    assert train_error(model, graph) is None
    del model.layers[1]  # it has no norm, but takes the inputs all the same
    assert train_error(model, graph) is None
    model.layers[0] = nn.Linear(5, 4)
    assert "mat1 and mat2 shapes cannot be multiplied" in str(train_error(model, graph))
