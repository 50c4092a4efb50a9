"""Effects: which calls write to memory, in each spelling, which may do anything, and which may go unread."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.effects import has_effect, in_place_argument, is_draw, is_foreign, is_guard, is_in_place

Build = Callable[[fx.Graph, fx.Node], fx.Node]


def built(build: Build, **layers: nn.Module) -> fx.Node:
    """Return a call on an input, in a graph of its own that has ``layers``."""
    graph = fx.Graph()
    node = build(graph, graph.placeholder("x"))
    graph.output(node)
    fx.GraphModule(nn.ModuleDict(layers), graph)
    return node


def function(target: Any, *args: Any, **kwargs: Any) -> Build:
    return lambda graph, x: graph.call_function(target, (x, *args), kwargs)


def method(name: str, *args: Any) -> Build:
    return lambda graph, x: graph.call_method(name, (x, *args))


def layer(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_module("layer", (x,))


WRITES: dict[str, Build] = {
    "method": method("add_", 1),
    "method without arguments": method("relu_"),
    "item by method": method("__setitem__", 0, 1.0),
    "item": function(operator.setitem, 0, 1.0),
    "function": function(torch.relu_),
    "function of nn.functional": function(functional.leaky_relu_, 0.1),
    "of the class": function(torch.Tensor.mul_, 2),
    "initialisation": function(nn.init.normal_),
    "out": function(torch.mul, 2, out=torch.empty(0)),
    "inplace by keyword": function(functional.relu, inplace=True),
    "inplace by position": function(functional.dropout, 0.5, True, True),
    "inplace by position, of one option": function(functional.silu, True),
    **{f"operator {one}": function(getattr(operator, one), 2) for one in (
        "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")},
}  # fmt: skip
ONLY_READS: dict[str, Build] = {
    "method": method("add", 1),
    "magic method": method("__add__", 1),
    "function": function(torch.relu),
    "not_": function(operator.not_),
    "and_": function(operator.and_, True),
    "is_": function(operator.is_, None),
    "no out": function(torch.mul, 2, out=None),
    "not in place": function(functional.relu, inplace=False),
    "not in place by position": function(functional.dropout, 0.5, True, False),
    "another option that is true": function(functional.dropout, 0.5, True),
    "item": function(operator.getitem, 0),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_writes_to_memory(name: str) -> None:
    node = built(WRITES[name])
    assert is_in_place(node)
    assert has_effect(node)


@pytest.mark.parametrize("name", ONLY_READS)
def test_what_only_reads(name: str) -> None:
    node = built(ONLY_READS[name])
    assert not is_in_place(node)
    assert not has_effect(node)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Dropout, nn.SiLU, nn.LeakyReLU, nn.Hardswish])
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_say_themselves_whether_they_write(kind: Any, inplace: bool) -> None:
    node = built(layer, layer=kind(inplace=inplace))
    assert is_in_place(node) == has_effect(node) == inplace


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (function(functional.relu, inplace=True), "inplace"),
        (function(functional.relu, True), 1),
        (function(functional.hardtanh, -1.0, 1.0, True), 3),
        (function(functional.dropout, 0.5, True, False), None),
        (function(functional.relu), None),
        (function(torch.relu_), None),
    ],
)
def test_where_inplace_stands(build: Build, where: int | str | None) -> None:
    assert in_place_argument(built(build)) == where


class Choosy(nn.Module):
    """Goes where data lead it, so that it is opaque."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 2


def own(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("build", "foreign"),
    [
        (function(own), True),
        (function(functional.relu), False),
        (function(operator.add, 1), False),
        (function(max, 1), False),
        (method("own"), False),
        (layer, False),
    ],
)
def test_foreign_functions(build: Build, foreign: bool) -> None:
    assert is_foreign(built(build, layer=nn.ReLU())) == foreign


def test_foreign_modules() -> None:
    model = Wrapped(lambda m, x: m.choosy(Twice.apply(m.conv(x))), choosy=Choosy(), conv=nn.Conv2d(4, 4, 1))
    nodes = traced(model, example(2, 4, 6, 6)).graph.find_nodes(op="call_module")
    assert [is_foreign(node) for node in nodes] == [False, True, True]
    assert has_effect(nodes[2])  # an opaque module may do anything


def test_inputs_and_the_output_matter() -> None:
    graph = fx.symbolic_trace(Wrapped(lambda m, x: torch.relu(x))).graph
    assert [has_effect(node) for node in graph.nodes] == [True, False, True]


def test_assertions_go_with_what_they_check() -> None:
    node = built(function(torch._assert, "message"))
    assert is_guard(node)
    assert not has_effect(node)
    assert not is_guard(built(function(torch.relu)))


@pytest.mark.parametrize("draw", [torch.rand_like, torch.randn_like, torch.bernoulli, torch.poisson])
def test_random_numbers_that_nobody_reads_may_go(draw: Any) -> None:
    node, written = built(function(draw)), built(function(draw, out=torch.empty(0)))
    assert is_draw(node)
    assert not has_effect(node)
    assert not is_draw(written)
    assert has_effect(written)
