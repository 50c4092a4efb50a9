"""In-place operations: a graph has none, and where one cannot be written otherwise, it stays as it is."""

from __future__ import annotations

from typing import Any

import torch
from helpers import Wrapped, example, targets, traced
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.tracing.notes import opaque_modules


def test_in_place_ops_of_every_kind_become_functional() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = m.relu(m.first(x))
        functional.relu(y, inplace=True)
        y = functional.leaky_relu_(y, 0.1)
        y.mul_(2).add_(1)
        y -= x
        torch.sigmoid_(y)
        z: torch.Tensor = y * m.relu(m.second(x))
        return z

    layers: dict[str, Any] = {
        "first": nn.Conv2d(4, 4, 1),
        "second": nn.Conv2d(4, 4, 1),
        "relu": nn.ReLU(inplace=True),
    }
    model = Wrapped(function, **layers)
    graph = traced(model, example(2, 4, 3, 3))
    assert not [name for name in targets(graph) if name.endswith("_")]
    x = example(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(graph(x.clone()), model(x.clone()))
    assert layers["relu"].inplace


def test_an_in_place_op_on_a_view_that_is_read_later_is_left_alone() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        y.view(-1).add_(1)
        return y

    graph = fxprune.trace(Wrapped(function), torch.ones(2, 2))
    assert "write it out of place" in opaque_modules(graph)[0].reason
    torch.testing.assert_close(graph(-torch.ones(3, 3)), torch.ones(3, 3))


def test_an_in_place_op_that_would_change_the_dtype_is_left_alone() -> None:
    model = Wrapped(lambda m, x: torch.relu(x).add_(torch.ones(2, dtype=torch.float64)))
    graph = fxprune.trace(model, torch.ones(2))
    assert "dtype or shape" in opaque_modules(graph)[0].reason
    assert graph(torch.ones(2)).dtype == torch.float32


def test_a_residual_onto_the_models_input_and_an_in_place_relu_on_a_shortcut() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.relu(m.first(x) + x)
        z = m.second(y)
        y = m.relu(y)
        z += y
        return z  # type: ignore[no-any-return]

    layers = {"first": nn.Conv2d(4, 4, 3, padding=1), "second": nn.Conv2d(4, 4, 3, padding=1)}
    model = Wrapped(function, relu=nn.ReLU(inplace=True), **layers)
    graph = traced(model, example(2, 4, 5, 5))
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.Simplify()])(graph)
    assert len(result.steps[0].result.rewritten) == 2
    torch.testing.assert_close(result.graph_module(example(3, 4, 6, 6)), model(example(3, 4, 6, 6)))


def test_outputs_in_one_container_are_not_one_tensor() -> None:
    def function(m: Any, x: torch.Tensor) -> Any:
        first = m.relu(m.first(x))
        return {"first": first, "second": m.relu(m.second(first))}

    layers = {"first": nn.Conv2d(4, 4, 1), "second": nn.Conv2d(4, 4, 1)}
    model = Wrapped(function, relu=nn.ReLU(inplace=True), **layers)
    graph = traced(model, example(2, 4, 5, 5))
    assert opaque_modules(graph) == []
    x = example(2, 4, 5, 5, seed=1)
    torch.testing.assert_close(graph(x), model(x))
