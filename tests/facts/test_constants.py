"""Constants: what no input can change is evaluated as the graph computes it; what else stands in the way is named."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, example, state_of, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.constants import Constants

Function = Callable[[Any], Any]


class Weights(nn.Module):
    """Adds to its input what ``function`` computes of weights alone; some of these are written to before."""

    total: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, function: Function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.weight, self.bias = nn.Parameter(torch.rand(3, 3) + 0.5), nn.Parameter(torch.rand(3))
        self.register_buffer("matrix", torch.eye(3))
        self.register_buffer("total", torch.ones(3, 3, dtype=torch.float64))
        self.register_buffer("row", self.total[0])  # a part of it
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        self.total.add_(x.sum())
        return x.sum() + self.function(self)


def constant(function: Function, **layers: nn.Module) -> tuple[Constants, fx.Node]:
    """Return the constants of a graph that adds what ``function`` computes, with the node that computes it."""
    graph = traced(Weights(function, **layers), example(2))
    add = graph.graph.output_node().all_input_nodes[0]
    return Constants(graph), add.all_input_nodes[-1]


@pytest.mark.parametrize(
    "function",
    [
        lambda m: m.weight,
        lambda m: m.matrix,
        lambda m: m.weight + m.matrix * 2.0,
        lambda m: (m.weight - m.weight.mean(1, keepdim=True)) / m.weight.std(1, keepdim=True),
        lambda m: functional.linear(m.matrix, m.weight, m.bias),
        lambda m: torch.stack([m.weight, m.matrix]).transpose(0, 1).sum(0),
        lambda m: torch.chunk(m.weight, 3)[1],
        lambda m: torch.add(input=m.weight, other=m.bias, alpha=2),
        lambda m: torch.linalg.inv(m.weight + 9 * m.matrix),
        lambda m: m.linear(torch.sigmoid(m.weight)),
        lambda m: m.relu(m.weight - 1),
    ],
)
def test_values(function: Function) -> None:
    layers: dict[str, Any] = {"linear": nn.Linear(3, 3), "relu": nn.ReLU()}
    torch.manual_seed(0)
    model = Weights(function, **layers).double()
    torch.manual_seed(0)
    found, node = constant(function, **layers)
    assert found.obstacle(node) is None
    expected = function(model).detach()
    assert torch.equal(found.value(node), expected)
    assert torch.equal(found.wide_value(node), expected)
    assert not found.value(node).requires_grad


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m: m.weight * torch.rand(3), "draws random numbers"),
        (lambda m: torch.bernoulli(torch.sigmoid(m.weight)), "draws random numbers"),
        (lambda m: functional.dropout(m.weight, 0.5, True), "draws random numbers"),
        (lambda m: m.total * 2, "total is updated in forward"),
        (lambda m: m.row * 2, "row is updated in forward"),  # another name of its memory
        (lambda m: m.dropout(m.weight), "a Dropout"),  # which follows the train flag
        (lambda m: m.norm(m.weight), "a BatchNorm1d"),
        (lambda m: m.hooked(m.weight), "it goes through hooked, a Identity"),
    ],
)
def test_obstacles(function: Function, reason: str) -> None:
    hooked = nn.Identity()
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    found, node = constant(function, dropout=nn.Dropout(), norm=nn.BatchNorm1d(3), hooked=hooked)
    assert reason in str(found.obstacle(node))


def foreign(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def hand_made(target: Any, *args: Any, **kwargs: Any) -> tuple[Constants, fx.Node]:
    """Return a call on the weight of a graph made by hand, and the constants of that graph."""
    graph = fx.Graph()
    graph.placeholder("x")
    node = graph.call_function(target, (graph.get_attr("weight"), *args), kwargs)
    graph.output(node)
    root = nn.Module()
    root.weight = nn.Parameter(torch.ones(3))
    return Constants(fx.GraphModule(root, graph)), node


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "reason"),
    [
        (foreign, (), {}, "foreign is not a function of torch"),
        (operator.imul, (2,), {}, "imul writes to memory"),
        (functional.relu, (), {"inplace": True}, "relu writes to memory"),
        (torch.mul, (2,), {"out": torch.empty(3)}, "mul writes to memory"),
        (torch.empty_like, (), {}, "empty_like reads uninitialised memory"),
        (torch.get_default_dtype, (), {}, "asks for a mode"),
        (torch.reshape, ((7,),), {}, "reshape cannot be evaluated: "),
    ],
)
def test_obstacles_that_tracing_leaves_none_of(target: Any, args: Any, kwargs: Any, reason: str) -> None:
    found, node = hand_made(target, *args, **kwargs)
    assert reason in str(found.obstacle(node))


def test_a_functional_norm_that_writes_to_what_it_reads_is_seen() -> None:
    graph = fx.Graph()
    weight, mean, var = (graph.get_attr(name) for name in ("weight", "mean", "var"))
    detached = [graph.call_method("clone", (one,)) for one in (mean, var)]
    node = graph.call_function(functional.batch_norm, (weight, *detached), {"training": True})
    graph.output(node)
    root = nn.Module()
    root.weight = nn.Parameter(torch.rand(4, 3))
    root.register_buffer("mean", torch.zeros(3))
    root.register_buffer("var", torch.ones(3))
    assert Constants(fx.GraphModule(root, graph)).obstacle(node) == "batch_norm changes clone"


def test_what_depends_on_inputs_says_so_and_so_does_all_that_reads_it() -> None:
    found, node = constant(lambda m: m.weight)
    graph = node.graph
    assert found.obstacle(graph.output_node().all_input_nodes[0]) == "it depends on the inputs"
    assert found.obstacle(next(iter(graph.nodes))) == "it depends on the inputs"
    assert "writes to memory" in str(found.obstacle(graph.output_node()))


def test_chains_and_leaves_are_in_graph_order() -> None:
    found, node = constant(lambda m: m.matrix @ (m.weight * 2.0) + m.bias)
    assert [one.name for one in found.leaves(node)] == ["matrix", "weight", "bias"]
    assert [one.name for one in found.chain(node)] == ["matrix", "weight", "mul", "matmul", "bias", "add"]


def test_evaluating_leaves_no_trace() -> None:
    graph = traced(Weights(lambda m: m.linear(m.weight) * torch.rand(3), linear=nn.Linear(3, 3)), example(2))
    state, random_state = state_of(graph), torch.get_rng_state()
    found = Constants(graph)
    assert {found.obstacle(node) is None for node in graph.graph.nodes} == {True, False}
    assert_state_equal(graph, state)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_wide_values_are_computed_in_float64() -> None:
    graph = traced(Weights(lambda m: m.weight / 3), example(2)).float()
    node = next(one for one in graph.graph.nodes if one.target is operator.truediv)
    found = Constants(graph)
    assert found.obstacle(node) is None
    assert found.value(node).dtype == torch.float32
    assert torch.equal(found.wide_value(node), graph.get_parameter("weight").double() / 3)
