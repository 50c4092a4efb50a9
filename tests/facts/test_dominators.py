"""Flow: which tensors every path passes, which lie on the paths between two, and who reads one from outside."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from helpers import Wrapped, example, traced
from torch import fx, nn

from fxprune.facts.dominators import Flow

Function = Callable[[Any, torch.Tensor], Any]


def flow_of(function: Function) -> tuple[Flow, dict[str, fx.Node]]:
    """Return the flow of ``function``, with its nodes by name."""
    graph = traced(Wrapped(function, conv=nn.Conv2d(4, 4, 1)), example(2, 4, 6, 6))
    return Flow(graph), {node.name: node for node in graph.graph.nodes}


def residual(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(x)
    return torch.sigmoid(m.conv(y)) + torch.tanh(y)


class Drawn(nn.Module):
    """Random sums, each of up to three of the values so far, of two inputs; what is unread is added in the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.plan = [
            [chance.randrange(max(0, n - 6), n) for _ in range(chance.choice([1, 1, 2, 3]))] for n in range(2, 25)
        ]

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        values = [x, z]
        for sources in self.plan:
            values.append(sum((values[one] for one in sources[1:]), torch.relu(values[sources[0]])))
        read = {one for sources in self.plan for one in sources}
        return sum((values[one] for one in range(2, len(values) - 1) if one not in read), values[-1])


@pytest.mark.parametrize("seed", range(20))
def test_dominators_are_those_that_networkx_finds(seed: int) -> None:
    graph = traced(Drawn(seed), example(2, 3), example(2, 3))
    nodes, flow = list(graph.graph.nodes), Flow(graph)
    digraph = nx.DiGraph([("inputs", node) for node in graph.graph.find_nodes(op="placeholder")])
    digraph.add_edges_from((source, node) for node in nodes for source in node.all_input_nodes)
    above: dict[Any, Any] = dict(nx.immediate_dominators(digraph, "inputs"))
    for node in nodes:
        chain, here = {node}, above[node]
        while here != "inputs":
            chain.add(here)
            here = above[here]
        assert {one for one in nodes if flow.dominates(one, node)} == chain


@pytest.mark.parametrize("seed", range(20))
def test_between_is_what_lies_on_the_paths(seed: int) -> None:
    graph = traced(Drawn(seed), example(2, 3), example(2, 3))
    flow = Flow(graph)
    digraph = nx.DiGraph([(source, node) for node in graph.graph.nodes for source in node.all_input_nodes])
    pairs = [(a, b) for a in digraph for b in digraph if a is not b and flow.dominates(a, b)]
    assert pairs
    for entry, end in pairs:
        expected = (nx.descendants(digraph, entry) & nx.ancestors(digraph, end)) | {end}
        assert flow.between(entry, end) == expected


def test_of_a_residual_sum() -> None:
    flow, node = flow_of(residual)
    assert flow.dominates(node["relu"], node["add"])
    assert flow.dominates(node["add"], node["add"])
    assert not flow.dominates(node["add"], node["relu"])
    assert not any(flow.dominates(node[side], node["add"]) for side in ("conv", "sigmoid", "tanh"))
    assert flow.between(node["relu"], node["add"]) == {node[one] for one in ("conv", "sigmoid", "tanh", "add")}
    assert flow.between(node["conv"], node["sigmoid"]) == {node["sigmoid"]}


def test_constants_sizes_and_what_nobody_needs_are_no_part() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        torch.tanh(x)
        y = torch.relu(x)
        weight: torch.Tensor = m.conv.weight.sum().expand(144, 2)
        return y.reshape(y.shape[0], -1) @ weight

    flow, node = flow_of(function)
    assert flow.dominates(node["relu"], node["matmul"])  # whatever comes from weights
    others = [one for name, one in node.items() if name not in ("x", "relu", "reshape", "matmul", "output")]
    assert {"tanh", "sum_1"} <= {one.name for one in others}
    assert not any(flow.dominates(one, node["matmul"]) or flow.dominates(node["x"], one) for one in others)


@pytest.mark.parametrize(
    ("function", "reader"),
    [
        (lambda m, x: torch.sigmoid(torch.relu(x)), None),
        (lambda m, x: (lambda y: torch.sigmoid(y) + torch.tanh(y))(torch.relu(x)), "tanh"),
        (lambda m, x: (lambda y: (torch.sigmoid(y), y))(torch.relu(x)), "output"),
        (lambda m, x: (lambda y: torch.sigmoid(y).new_zeros(y.shape[0] * 2))(torch.relu(x)), "new_zeros"),
        (lambda m, x: (lambda y: (torch.sigmoid(y), torch.tanh(y))[0])(torch.relu(x)), None),  # nobody needs it
        (lambda m, x: (lambda y: (torch.sigmoid(y), y.shape[0] * 2)[0])(torch.relu(x)), None),
    ],
)
def test_readers_outside(function: Function, reader: str | None) -> None:
    flow, node = flow_of(function)
    found = flow.reader_outside(node["relu"], {node["sigmoid"]}, None)
    assert (None if found is None else found.name) == reader
    if reader is not None:
        assert flow.reader_outside(node["relu"], {node["sigmoid"]}, node[reader]) is None
