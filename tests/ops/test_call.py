"""Calls: the same op, however a graph spells it; what is unusual claims nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from fxprune.ops.call import Call, claims_of, is_a, is_conv, operands

Function = Callable[[Any, torch.Tensor], Any]


def call_of(function: Function, **layers: nn.Module) -> Call:
    """Return the call whose value ``function`` returns."""
    graph = traced(Wrapped(function, **layers), example(2, 4, 6, 6))
    return Call(graph.graph.output_node().all_input_nodes[0])


WEIGHT = nn.Parameter(torch.randn(3, 4, 3, 3, dtype=torch.float64))
CONVS: dict[str, tuple[Function, dict[str, nn.Module]]] = {
    "layer": (lambda m, x: m.conv(x), {"conv": nn.Conv2d(4, 3, 3, dilation=2)}),
    "by position": (lambda m, x: functional.conv2d(x, m.w.weight, None, 1, 0, 2), {"w": nn.Conv2d(4, 3, 3)}),
    "by name": (lambda m, x: functional.conv2d(x, m.w.weight, dilation=2), {"w": nn.Conv2d(4, 3, 3)}),
    "all by name": (lambda m, x: torch.conv2d(input=x, weight=m.w.weight, dilation=2), {"w": nn.Conv2d(4, 3, 3)}),
}


@pytest.mark.parametrize("name", CONVS)
def test_one_convolution_in_every_spelling(name: str) -> None:
    function, layers = CONVS[name]
    call = call_of(function, **layers)
    assert call.kind == "conv"
    assert call.numbers("dilation") == (2, 2)
    assert call.numbers("stride") == (1, 1)
    assert call.argument("groups") == 1
    assert call.input is next(iter(call.node.graph.nodes))
    assert call.claims is call.op
    assert is_conv(call.node)


def test_arguments_that_may_be_spread_out_or_not() -> None:
    for function in (
        lambda m, x: x.permute(0, 2, 3, 1),
        lambda m, x: x.permute((0, 2, 3, 1)),
        lambda m, x: torch.permute(x, (0, 2, 3, 1)),
        lambda m, x: torch.permute(x, dims=(0, 2, 3, 1)),
    ):
        assert tuple(call_of(function).argument("dims")) == (0, 2, 3, 1)


def test_numpys_names_are_torchs() -> None:
    call = call_of(lambda m, x: torch.mean(x, axis=1, keepdims=True))  # type: ignore[call-overload]
    assert (call.argument("dim"), call.argument("keepdim")) == (1, True)
    assert call.claims is not None


def test_what_it_has_no_parameter_for_is_none() -> None:
    call = call_of(lambda m, x: torch.relu(x))
    assert call.argument("dilation") is None
    assert Call(call.node.graph.output_node()).argument("input") is None


def test_a_layer_of_another_class_or_with_hooks_claims_nothing() -> None:
    class Shifted(nn.Conv2d):
        pass

    Shifted.__module__ = "torch.nn.modules.conv"  # to be a leaf
    hooked = nn.Conv2d(4, 4, 1)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    parametrized = parametrize.register_parametrization(nn.Conv2d(4, 4, 1), "weight", nn.Identity())
    for layer in (Shifted(4, 4, 1), hooked, parametrized):
        root, graph = nn.Module(), fx.Graph()
        root.layer = layer
        node = graph.call_module("layer", (graph.placeholder("x"),))
        graph.output(node)
        made = fx.GraphModule(root, graph)
        call = Call(next(iter(made.graph.find_nodes(op="call_module"))))
        assert call.kind == "conv"  # what it costs is known
        assert call.exact is None
        assert call.claims is None


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.add(x, x, alpha=2),
        lambda m, x: torch.div(x, 2.0, rounding_mode="floor"),
        lambda m, x: functional.avg_pool2d(x, 2, divisor_override=3),
        lambda m, x: functional.max_pool2d(x, 2, dilation=2),
        lambda m, x: functional.interpolate(x, scale_factor=2.0, mode="bicubic"),
        lambda m, x: functional.pad(x, (1, 1), value=2.0),
    ],
)
def test_claims_hold_for_the_arguments_of_the_row(function: Function) -> None:
    call = call_of(function)
    assert call.exact is not None
    assert call.claims is None
    assert claims_of(call.node) is None


def test_what_the_row_does_not_know_is_not_exact() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert Call(graph.call_function(torch.relu, (x,), {"out": x})).exact is None
    assert Call(graph.call_function(operator.add, (x, x, x))).exact is None
    assert Call(graph.call_function(torch.relu, (x,))).exact is not None


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x + 1.0, 1.0),
        (lambda m, x: torch.add(x, 1.0), 1.0),
        (lambda m, x: x.add(other=1.0), 1.0),
        (lambda m, x: torch.add(x, other=1.0, alpha=1), 1.0),
        (lambda m, x: torch.add(x, 1.0, alpha=2), None),
        (lambda m, x: x - 1.0, None),
        (lambda m, x: m.add(x), None),  # a layer with the name of a method
    ],
)
def test_operands_of_a_sum(function: Function, expected: float | None) -> None:
    node = call_of(function, add=nn.ReLU()).node
    found = operands(node, "add")
    assert (found and found[1]) == expected
    assert is_a(node, "add") == (found is not None or "alpha" in node.kwargs)


def test_a_size_that_is_left_open_is_no_number() -> None:
    assert call_of(lambda m, x: m.pool(x), pool=nn.AdaptiveAvgPool2d((None, 3))).numbers("output_size") is None
