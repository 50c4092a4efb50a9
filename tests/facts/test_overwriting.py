"""Overwriting: which ReLUs and sums may write into what they read; doing so changes no value and no gradient."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, randomize, traced
from random_nets import RandomNet
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune.facts.effects import is_in_place
from fxprune.facts.overwriting import overwritten
from fxprune.ir.copies import copy_module
from fxprune.ir.nodes import called_module, example_inputs_of
from fxprune.rewriting.verify import difference

Function = Callable[[Any, torch.Tensor], Any]


def found_in(function: Function) -> dict[str, str]:
    """Return what overwrites what, by name."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(4, 4, 1),
        "other": nn.Conv2d(4, 4, 1),
        "norm": nn.BatchNorm2d(4),
    }
    layers |= {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "gelu": nn.GELU(), "leaky": nn.LeakyReLU()}
    graph = traced(Wrapped(function, **layers), example(2, 4, 6, 6)).graph
    return {node.name: source.name for node, source in overwritten(graph).items()}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: m.relu(m.conv(x)), {"relu": "conv"}),
        (lambda m, x: m.relu6(m.norm(x)), {"relu6": "norm"}),
        (lambda m, x: functional.relu(m.conv(x)), {"relu": "conv"}),
        (lambda m, x: functional.relu6(m.conv(x), inplace=False), {"relu6": "conv"}),
        (lambda m, x: m.relu(x + 1.0), {"relu": "add"}),
        (lambda m, x: m.conv(x) + m.other(x), {"add": "conv"}),
        (lambda m, x: torch.add(m.conv(x), m.other(x)), {"add": "conv"}),
        (lambda m, x: functional.relu(m.conv(x)) + m.other(x), {"relu": "conv", "add": "other"}),
        (lambda m, x: m.relu(m.conv(x) + m.other(x)), {"relu": "add", "add": "conv"}),
    ],
)
def test_what_may_overwrite_which_input(function: Function, expected: dict[str, str]) -> None:
    assert found_in(function) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.relu(x),  # the caller's
        lambda m, x: (lambda y: (m.relu(y), y))(m.conv(x)),
        lambda m, x: (lambda y: m.conv(x).add(y))(m.other(x)),  # a method: no sum that source writes
        lambda m, x: torch.relu(m.conv(x)),  # it takes no inplace
        lambda m, x: m.conv(x).relu(),
        lambda m, x: m.gelu(m.conv(x)),
        lambda m, x: m.leaky(m.conv(x)),
        lambda m, x: m.relu(torch.sigmoid(m.conv(x))),  # it keeps its output for its gradient
        lambda m, x: m.relu(m.conv(x).flatten(1)),  # a view
        lambda m, x: m.relu(m.conv(x)) + m.relu(x),  # a layer overwrites everywhere or nowhere
        lambda m, x: torch.add(m.conv(x), m.other(x), alpha=2),
        lambda m, x: m.conv(x) + m.other(x)[:1],
        lambda m, x: m.conv(x) - m.other(x),
        lambda m, x: m.conv(x) * m.other(x),
    ],
)
def test_what_overwrites_nothing(function: Function) -> None:
    assert found_in(function) == {}


def test_where_the_grad_mode_changes_nothing_is_overwritten() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.relu(m.conv(x))
        with torch.no_grad():
            z: torch.Tensor = torch.relu(x)
        return y + z  # type: ignore[no-any-return]

    assert found_in(function) == {}


def in_place(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of ``graph`` in which everything overwrites what it may."""
    mine: Any = copy_module(graph)
    for node, source in overwritten(mine.graph).items():
        module: Any = called_module(node)
        if module is not None:
            module.inplace = True
        elif node.target in (operator.add, torch.add):
            other = node.args[1] if node.args[0] is source else node.args[0]
            node.target, node.args = operator.iadd, (source, other)
        else:
            node.kwargs = {"inplace": True}
    mine.recompile()
    return mine  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning", "ignore:.* is opaque and hides")
@pytest.mark.parametrize("seed", range(16))
def test_random_networks_compute_the_same_with_the_same_gradients(seed: int) -> None:
    torch.manual_seed(seed)
    try:
        graph = fxprune.trace(randomize(RandomNet(seed), seed), (example(2, 4, 7, 7), example(2, 4, 7, 7)))
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    if any(is_in_place(node) for node in graph.graph.nodes):
        return  # what it keeps is written to after it is read, which no backward survives
    before = [x.clone() for x in example_inputs_of(graph)]
    found = []
    for model in (copy_module(graph), in_place(graph)):
        inputs = [x.clone().requires_grad_() for x in before]
        y = model(*[x * 1.0 for x in inputs])
        y.square().sum().backward()
        found.append([y, *(one.grad for one in (*inputs, *model.parameters()) if one.grad is not None)])
    assert len(found[0]) == len(found[1])
    assert difference(found[0], found[1]) == (0, 0)
