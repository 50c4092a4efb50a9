"""Call sites: how often modules and parameters are used, by identity, and which of them forward writes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, module_at, traced
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.module_uses import CallSites

Function = Callable[[Any, torch.Tensor], Any]


def graph_of(function: Function, **layers: nn.Module) -> fx.GraphModule:
    """Return the graph of ``function``, with a conv, one that shares its weight, and a norm."""
    tied, conv = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    tied.weight = conv.weight
    return traced(
        Wrapped(function, conv=conv, tied=tied, other=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4), **layers),
        example(2, 4, 6, 6),
    )


@pytest.mark.parametrize(
    ("function", "calls", "reads", "shared"),
    [
        (lambda m, x: m.conv(x), 1, 1, None),
        (lambda m, x: m.conv(m.other(x)), 1, 1, None),
        (lambda m, x: m.conv(m.conv(x)), 2, 1, None),  # a site each, but one layer that reads the weight
        (lambda m, x: m.conv(m.tied(x)), 1, 2, "weight"),
        (lambda m, x: functional.conv2d(m.conv(x), m.conv.weight), 1, 2, "weight"),
        (lambda m, x: m.conv(x) * m.conv.bias.sum(), 1, 1, "bias"),
        (lambda m, x: m.conv(x) + (lambda w: w * w)(m.conv.weight.sum()), 1, 2, "weight"),
    ],
)
def test_calls_and_reads(function: Function, calls: int, reads: int, shared: str | None) -> None:
    graph = graph_of(function)
    sites, conv = CallSites(graph), module_at(graph, "conv")
    assert sites.calls(conv) == calls
    assert sites.reads(conv.weight) == reads
    assert sites.shared_parameter(conv) == shared


def test_a_read_counts_as_often_as_it_is_used() -> None:
    graph = graph_of(lambda m, x: (lambda w: functional.conv2d(functional.conv2d(x, w), w))(m.conv.weight))
    weight: Any = graph.get_parameter(str(graph.graph.find_nodes(op="get_attr")[0].target))
    assert CallSites(graph).reads(weight) == 2


def test_one_module_under_two_names_is_one() -> None:
    layer = nn.Conv2d(4, 4, 1)
    graph = graph_of(lambda m, x: m.a(m.b(x)), a=layer, b=layer)
    assert [CallSites(graph).calls(module) for module in graph.modules() if isinstance(module, nn.Conv2d)] == [2]


def test_what_is_not_called_is_not_used() -> None:
    sites, layer = CallSites(graph_of(lambda m, x: m.conv(x))), nn.Conv2d(4, 4, 1)
    assert (sites.calls(layer), sites.reads(layer.weight), sites.shared_parameter(layer)) == (0, 0, None)


def test_buffers_count_where_the_graph_reads_them_itself() -> None:
    alone = graph_of(lambda m, x: m.norm(x))
    assert CallSites(alone).shared_parameter(module_at(alone, "norm")) is None
    read = graph_of(lambda m, x: m.norm(x) - m.norm.running_mean.sum())
    assert CallSites(read).shared_parameter(module_at(read, "norm")) == "running_mean"


class Choosy(nn.Module):
    """Goes where data lead it, so that it is opaque; it holds a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y * 2 if y.sum() > 0 else y


def test_what_a_module_holds_inside_is_read_too() -> None:
    layer = nn.Conv2d(4, 4, 1)
    graph = graph_of(lambda m, x: m.choosy(m.layer(x)), choosy=Choosy(layer), layer=layer)
    sites, (held, choosy) = CallSites(graph), graph.graph.find_nodes(op="call_module")
    assert sites.reads(module_at(graph, held.target).weight) == 2
    assert sites.shared_parameter(module_at(graph, held.target)) == "weight"
    assert str(sites.shared_parameter(module_at(graph, choosy.target))).endswith("weight")
    assert sites.updated_tensor(module_at(graph, held.target)) == "weight"  # opaque code may write to what it holds


def test_what_forward_writes_to() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.norm.running_var.mul_(0.5)
        return m.norm(m.conv(x))  # type: ignore[no-any-return]

    graph = graph_of(function)
    sites = CallSites(graph)
    assert sites.updated_tensor(module_at(graph, "norm")) == "running_var"
    assert sites.updated_tensor(module_at(graph, "conv")) is None
