"""Factors: what is a product by a constant, and through which calls a positive or any factor passes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.constant_factors import constant_factor, passes_factor

Function = Callable[[Any, torch.Tensor], Any]


def last_of(function: Function, x: torch.Tensor | None = None, **layers: nn.Module) -> fx.Node:
    """Return what computes the value that ``function`` returns."""
    graph = traced(Wrapped(function, **layers), example(2, 4, 6, 6) if x is None else x)
    last: fx.Node = graph.graph.output_node().all_input_nodes[0]
    return last


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (lambda m, x: x * 0.5, 0.5),
        (lambda m, x: -3 * x, -3.0),
        (lambda m, x: x.mul(2), 2.0),
        (lambda m, x: torch.mul(x, 0.0), 0.0),
        (lambda m, x: torch.mul(0.25, x), 0.25),
        (lambda m, x: torch.mul(x, other=2.0), 2.0),
    ],
)
def test_products_by_a_number(function: Function, factor: float) -> None:
    node = last_of(function)
    assert constant_factor(node) == (node.all_input_nodes[0], factor)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * x,
        lambda m, x: x * x[:, :1],
        lambda m, x: x * True,
        lambda m, x: x * float("inf"),
        lambda m, x: x * float("nan"),
        lambda m, x: x.long() * 2,
        lambda m, x: x.long() * 0.5,  # of another dtype than what it reads
        lambda m, x: x * 2j,
        lambda m, x: x / 2,
        lambda m, x: x + 2,
        lambda m, x: m.mul(x),  # a layer with the name of a method
    ],
)
def test_what_is_no_product_by_a_number(function: Function) -> None:
    assert constant_factor(last_of(function, mul=nn.ReLU())) is None


def test_a_product_of_which_no_shape_is_known_is_none() -> None:
    graph = fx.symbolic_trace(Wrapped(lambda m, x: x * 2.0))
    assert [constant_factor(node) for node in graph.graph.nodes] == [None] * 3


LINEAR: dict[str, nn.Module | Function] = {
    "nn.Identity": nn.Identity(),
    "nn.Flatten": nn.Flatten(),
    "nn.Dropout": nn.Dropout(),
    "nn.Dropout2d": nn.Dropout2d(),
    "nn.AvgPool2d": nn.AvgPool2d(3, 2, 1),
    "nn.AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(2),
    "nn.PixelShuffle": nn.PixelShuffle(2),
    "nn.ChannelShuffle": nn.ChannelShuffle(2),
    "torch.flatten": lambda m, x: torch.flatten(x, start_dim=1),
    "flatten": lambda m, x: x.flatten(1),
    "avg_pool2d": lambda m, x: functional.avg_pool2d(x, 3, padding=1, divisor_override=5),
    "adaptive_avg_pool2d": lambda m, x: functional.adaptive_avg_pool2d(x, 1),
    "dropout": lambda m, x: functional.dropout(x, 0.4, True),
    "torch.permute": lambda m, x: torch.permute(x, (0, 2, 3, 1)),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "torch.transpose": lambda m, x: torch.transpose(x, 1, 2),
    "transpose": lambda m, x: x.transpose(1, 2),
    "torch.mean": lambda m, x: torch.mean(x, (2, 3)),
    "mean": lambda m, x: x.mean(dim=1, keepdim=True),
    "view": lambda m, x: x.view(x.shape[0], -1),
    "reshape": lambda m, x: x.reshape(-1),
    "contiguous": lambda m, x: x.transpose(1, 2).contiguous(),
}
POSITIVE: dict[str, nn.Module | Function] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "nn.LeakyReLU": nn.LeakyReLU(-0.7),
    "nn.MaxPool2d": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "nn.AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(2),
    "torch.relu": lambda m, x: torch.relu(x),
    "relu": lambda m, x: x.relu(),
    "functional.relu": lambda m, x: functional.relu(x),
    "functional.relu in place": lambda m, x: functional.relu(x * 1.0, inplace=True),
    "leaky_relu": lambda m, x: functional.leaky_relu(x, negative_slope=0.3),
    "max_pool2d": lambda m, x: functional.max_pool2d(x, 3, 1, 1),
}


def graph_of(op: nn.Module | Function) -> fx.GraphModule:
    """Return the graph of ``op``, a layer or a function, on images."""
    model = Wrapped(lambda m, x: m.layer(x), layer=op) if isinstance(op, nn.Module) else Wrapped(op)
    return traced(model, example(2, 4, 6, 6))


def claims(op: nn.Module | Function) -> list[bool]:
    """Say whether 2 and -2 pass through ``op``."""
    node = graph_of(op).graph.output_node().all_input_nodes[0]
    return [passes_factor(node, factor) for factor in (2.0, -2.0)]


def assert_scales(graph: fx.GraphModule, factor: float, seed: int) -> None:
    """Assert that ``factor`` passes through all of ``graph``, in both modes."""
    x = example(3, 4, 6, 6, seed=seed)
    for training in (False, True):
        found = []
        for value in (factor * x, x):
            torch.manual_seed(seed)  # one mask of a dropout for both
            found.append(graph.train(training)(value))
        torch.testing.assert_close(found[0], factor * found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_any_factor_passes_through_what_is_linear(name: str) -> None:
    assert claims(LINEAR[name]) == [True, True]
    assert_scales(graph_of(LINEAR[name]), 1.7, seed=0)
    assert_scales(graph_of(LINEAR[name]), -0.3, seed=1)


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_factors_alone_pass_through_what_keeps_order(name: str) -> None:
    assert claims(POSITIVE[name]) == [True, False]
    assert_scales(graph_of(POSITIVE[name]), 40.0, seed=0)


@pytest.mark.parametrize("seed", range(10))
def test_what_passes_each_call_of_a_chain_passes_the_chain(seed: int) -> None:
    chance = random.Random(seed)
    layers = [chance.choice([*LINEAR.values(), *POSITIVE.values()]) for _ in range(40)]
    chain = [
        one for one in layers if isinstance(one, nn.Module) and not isinstance(one, (nn.Flatten, nn.PixelShuffle))
    ]
    graph = graph_of(nn.Sequential(*copy.deepcopy(chain[:6])))
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    for factor in (3.0, -3.0):
        if all(passes_factor(node, factor) for node in nodes):
            assert_scales(graph, factor, seed)
    assert all(passes_factor(node, 3.0) for node in nodes)


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, args, output: output + 1)
    return layer


@pytest.mark.parametrize(
    "op",
    [
        *(nn.ReLU6(), nn.Sigmoid(), nn.Softplus(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Hardtanh()),
        *(hooked(), nn.MaxPool2d(2, return_indices=True)),
        lambda m, x: functional.relu6(x),
        lambda m, x: torch.sigmoid(x),
        lambda m, x: x + 1.0,
        lambda m, x: torch.mean(x, 1, dtype=torch.float32),
        lambda m, x: x.view(torch.float32),
        lambda m, x: functional.max_pool2d(x, 2, return_indices=True)[1],
        lambda m, x: torch.flatten(x.long()),
    ],
)
def test_no_factor_passes_through_others(op: nn.Module | Function) -> None:
    assert claims(op) == [False, False]
