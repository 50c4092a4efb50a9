"""Batch norms that a module spells out are layers again: folded, counted in training, saved under their keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, randomize, targets
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes


class NormThenAct(nn.BatchNorm2d):
    """A batch norm with an activation of its own, written out as a library of image models does."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, **options)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.ndim == 4, "expected 4D input")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        weight, bias = self.weight, self.bias
        y = functional.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
        )
        z: torch.Tensor = self.act(y)
        return z


def network(**options: Any) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3, bias=False)
    return randomize(nn.Sequential(conv, NormThenAct(4, **options), nn.Conv2d(4, 4, 1)))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1, "momentum": 0.3}])
def test_the_norm_is_a_layer_with_its_own_keys(options: Any) -> None:
    model = network(**options)
    graph = fxprune.trace(model, example(2, 3, 6, 6))
    assert targets(graph) == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert list(graph.state_dict()) == list(model.state_dict())
    folded = fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])(graph)
    assert targets(folded.graph_module) == ["Conv2d", "ReLU", "Conv2d"]


def test_it_trains_as_the_model_does() -> None:
    model = network().train()
    graph = fxprune.trace(model, example(2, 3, 6, 6))
    reference = copy.deepcopy(model)
    for seed in range(2):
        x = example(2, 3, 6, 6, seed=seed)
        torch.testing.assert_close(graph(x), reference(x))
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(graph.state_dict()[name], value)


def other_tensors(m: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x, m.a.running_mean, m.b.running_var, m.a.weight, m.a.bias, False, 0.1, 1e-5)


def other_settings(m: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x, m.a.running_mean, m.a.running_var, m.a.weight, m.a.bias, False, 0.1, 1e-3)


def no_norm(m: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x, m.mean, m.mean, None, None, False, 0.1, 1e-5)


def batch_statistics(m: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x, None, None, m.a.weight, m.a.bias, True, 0.1, 1e-5)


@pytest.mark.parametrize("function", [other_tensors, other_settings, no_norm, batch_statistics])
def test_calls_that_are_not_one_modules_own_stay(function: Any) -> None:
    modules: dict[str, Any] = {"a": nn.BatchNorm2d(3), "b": nn.BatchNorm2d(3), "mean": nn.Parameter(torch.ones(3))}
    graph = fxprune.trace(randomize(Wrapped(function, **modules)), example(2, 3, 6, 6))
    assert targets(graph) == ["batch_norm"]
