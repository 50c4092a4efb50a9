"""Liveness: what the output needs, and what goes with a node that its readers pass by: what torch.fx removes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, randomize, traced
from random_nets import RandomNet
from torch import fx, nn

import fxprune
from fxprune.facts.liveness import Liveness
from fxprune.ir.copies import copy_module
from fxprune.ir.nodes import example_inputs_of

Function = Callable[[Any, torch.Tensor], Any]


def live(function: Function, **layers: nn.Module) -> tuple[Liveness, dict[str, fx.Node]]:
    """Return the liveness of ``function``, with its nodes by name."""
    graph = traced(Wrapped(function, **layers), example(2, 4, 6, 6))
    return Liveness(graph.graph), {node.name: node for node in graph.graph.nodes}


class Choosy(nn.Module):
    """Goes where data lead it, so that it is opaque."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Counts(nn.Module):
    """Writes to a buffer that it does not read."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(torch.tanh(x).mean())
        return torch.relu(x)


def test_values_that_nobody_reads_are_not_needed() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        torch.tanh(torch.sigmoid(x))
        return torch.relu(x)

    found, node = live(function)
    assert {name for name in node if not found.needed(node[name])} == {"sigmoid", "tanh"}


def test_writes_and_opaque_modules_are_needed_with_what_they_read() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.choosy(torch.sigmoid(x))
        return m.counts(x)  # type: ignore[no-any-return]

    found, node = live(function, choosy=Choosy(), counts=Counts())
    assert all(found.needed(one) for one in node.values())
    assert {name for name in node if found.has_effect(node[name])} == {"x", "choosy", "add_", "output"}


def test_assertions_go_with_what_they_check() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        z = torch.sigmoid(y)
        torch._assert(z.shape[1] == 4, "channels")
        return y + z

    found, node = live(function)
    idle = {name for name in node if not found.needed(node[name])}
    assert "_assert" in idle
    assert not idle & {"relu", "sigmoid", "add"}
    assert found.dead_once_passed_by(node["add"], node["relu"]) == {node["add"], node["sigmoid"]} | {
        node[name] for name in idle
    }


@pytest.mark.parametrize(
    ("function", "kept", "dead"),
    [
        (lambda m, x: x + torch.tanh(torch.relu(x)), "x", {"add", "tanh", "relu"}),
        (lambda m, x: (lambda y: y + torch.tanh(y))(torch.relu(x)), "relu", {"add", "tanh"}),
        (lambda m, x: (lambda y: y + torch.tanh(y))(torch.relu(x)), "tanh", {"add"}),
        (lambda m, x: (lambda y: (x + y, y))(torch.relu(x)), "x", {"add"}),  # read elsewhere
        (lambda m, x: (lambda y: x + y * y.sum())(torch.relu(x)), "x", {"add", "mul", "sum_1", "relu"}),
        (lambda m, x: x + m.choosy(torch.relu(x)), "x", {"add"}),  # it may do anything
        (lambda m, x: x + torch.relu(m.choosy(x)), "x", {"add", "relu"}),
    ],
)
def test_what_goes_with_a_sum_that_is_passed_by(function: Function, kept: str, dead: set[str]) -> None:
    found, node = live(function, choosy=Choosy())
    assert {one.name for one in found.dead_once_passed_by(node["add"], node[kept])} == dead


def removed_by_fx(graph: fx.GraphModule, name: str, kept: str) -> set[str]:
    """Return what torch.fx finds dead once the readers of ``name`` read ``kept`` instead."""
    mine = copy.deepcopy(graph)
    node = {one.name: one for one in mine.graph.nodes}
    before = set(node)
    node[name].replace_all_uses_with(node[kept])
    mine.recompile()
    expected = copy_module(mine)(*example_inputs_of(graph))
    mine.graph.eliminate_dead_code(Liveness(mine.graph).has_effect)
    mine.recompile()
    assert torch.equal(copy_module(mine)(*example_inputs_of(graph)), expected)
    return before - {one.name for one in mine.graph.nodes}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning", "ignore:.* is opaque and hides")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_lose_what_is_said(seed: int) -> None:
    torch.manual_seed(seed)
    try:
        graph = fxprune.trace(randomize(RandomNet(seed), seed), (example(2, 4, 7, 7), example(2, 4, 7, 7)))
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    found = Liveness(graph.graph)
    idle = {node.name for node in graph.graph.nodes if not found.needed(node)}
    like = [
        (node, source)
        for node in graph.graph.nodes
        for source in node.all_input_nodes
        if node.op not in ("output", "placeholder") and not found.has_effect(node) and found.needed(node)
        and node.meta["tensor_meta"] == source.meta["tensor_meta"]
    ]  # fmt: skip
    assert like
    for node, source in like:
        said = {one.name for one in found.dead_once_passed_by(node, source)}
        assert said | idle == removed_by_fx(graph, node.name, source.name)
