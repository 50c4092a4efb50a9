"""Sizes of inputs: the root mean square of what nodes read first, on the example inputs, in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, assert_state_equal, example, state_of, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.input_rms import input_sizes, root_mean_square
from fxprune.ir.nodes import EXAMPLE_INPUTS

X = example(2, 4, 6, 6)


def sizes(function: Callable[[Any, torch.Tensor], Any], x: torch.Tensor = X, **layers: nn.Module) -> dict[str, float]:
    """Return the sizes by name, of all nodes that read another."""
    graph = traced(Wrapped(function, **layers), x)
    readers = [node for node in graph.graph.nodes if node.all_input_nodes and node.op != "output"]
    return {node.name: size for node, size in input_sizes(graph, readers).items()}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (torch.full((2, 3), -2.0), 2.0),
        (torch.tensor([3.0, 4.0]), 12.5**0.5),
        (torch.tensor([1, 7]), 5.0),
        (torch.tensor([300.0, 300.0], dtype=torch.float16), 300.0),  # its square is none of float16
        (torch.ones(3, requires_grad=True), 1.0),
    ],
)
def test_root_mean_square(value: torch.Tensor, size: float) -> None:
    assert root_mean_square(value) == pytest.approx(size)


def test_of_what_is_read_first() -> None:
    found = sizes(lambda m, x: m.conv(torch.relu(x * 3.0)) + x, conv=nn.Conv2d(4, 4, 1))
    rms = float(X.square().mean().sqrt())
    assert found["mul"] == pytest.approx(rms)
    assert found["relu"] == pytest.approx(3 * rms)
    assert found["conv"] == pytest.approx(float((3 * X).relu().square().mean().sqrt()))


def test_of_what_is_given_by_keyword() -> None:
    weight = torch.eye(4, dtype=torch.float64)[:, :, None, None]
    found = sizes(lambda m, x: functional.conv2d(input=x * 2.0, weight=m.weight), weight=nn.Parameter(weight))  # type: ignore[arg-type]
    assert found["conv2d"] == pytest.approx(2 * root_mean_square(X))


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_a_size_that_is_no_unit_is_one(factor: float) -> None:
    assert sizes(lambda m, x: torch.relu(x * factor))["relu"] == 1.0


def test_of_nothing_known_is_nothing_said() -> None:
    graph = traced(Wrapped(lambda m, x: torch.relu(x)), X)
    relu = graph.graph.find_nodes(op="call_function", target=torch.relu)
    assert input_sizes(graph, []) == {}
    assert len(input_sizes(graph, relu)) == 1
    del graph.meta[EXAMPLE_INPUTS]
    assert input_sizes(graph, relu) == {}


class Counts(nn.Module):
    """A dropout and a norm, and a buffer that each call changes."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.ones(1))
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(1.0)
        return torch.relu(self.dropout(self.norm(x)) * self.total)


def measured(graph: fx.GraphModule) -> list[float]:
    return list(input_sizes(graph, graph.graph.find_nodes(op="call_function", target=torch.relu)).values())


def test_in_eval_mode_and_without_a_trace() -> None:
    graph = traced(Counts(), X)
    expected = measured(graph.eval())
    state, inputs = state_of(graph), graph.meta[EXAMPLE_INPUTS][0].clone()
    for training in (True, False):
        assert measured(graph.train(training)) == expected
        assert graph.training == training
        assert all(module.training == training for module in graph.modules())
    assert_state_equal(graph, state)
    assert torch.equal(graph.meta[EXAMPLE_INPUTS][0], inputs)
