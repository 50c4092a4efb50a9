"""Calls that channels were once wrong about: each is cut right, or stays with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune import passes

Forward = Callable[["Net", torch.Tensor], Any]
CALLS: dict[str, Forward] = {}


def call(forward: Forward) -> Forward:
    """Have a forward be one of those that are tried."""
    CALLS[forward.__name__] = forward
    return forward


class Net(nn.Module):
    """Layers that every forward may call; those that it does not are not in its graph."""

    first: torch.Tensor
    second: torch.Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 3, 2, 1)
        self.head, self.linear, self.rows = nn.Conv2d(8, 5, 1), nn.Linear(8, 5), nn.Linear(8, 8)
        self.instance, self.slopes = nn.InstanceNorm1d(8), nn.Parameter(torch.rand(8))
        self.table, self.square = nn.Embedding(7, 8), nn.Parameter(torch.randn(8, 8))
        self.depthwise, self.bounded = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Embedding(20, 8, max_norm=0.5)
        self.grouped = nn.Parameter(torch.randn(8, 2, 3, 3))
        self.register_buffer("places", torch.rand(64, 8) > 0.3)
        self.register_buffer("first", torch.randn(8, 3, 3, 3))
        self.register_buffer("second", torch.randn(5, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return CALLS[self.name](self, x)


@call
def bounds_that_are_tensors(net: Net, x: torch.Tensor) -> Any:
    return net.head(torch.clamp(net.one(x), max=net.two(x))) + net.head(
        net.one(x).clamp(min=net.slopes[:, None, None])
    )


@call
def norm_without_a_batch(net: Net, x: torch.Tensor) -> Any:
    return net.linear(net.instance(net.rows(x[0, 0])))


@call
def operands_by_name(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    y = torch.matmul(y, other=net.square) + y.mean((2, 3), keepdim=True).expand_as(other=y)
    return torch.bmm(input=net.head(y).flatten(2).transpose(1, 2), mat2=net.head(y).flatten(2))


@call
def reduced_by_a_flag(net: Net, x: torch.Tensor) -> Any:
    return net.head(net.one(x) / (1 + net.one(x).var(False)))


@call
def lists_added(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    return net.head(torch.cat(y.chunk(2, 1) + (y,), 1)[:, 4:12])  # noqa: RUF005 - it is what is tried


@call
def masked_by_two_axes(net: Net, x: torch.Tensor) -> Any:
    return net.one(x).flatten(2).transpose(1, 2)[:, net.places].sum(1)


@call
def viewed_as_another(net: Net, x: torch.Tensor) -> Any:
    y = net.two(x)
    return net.head(net.one(x).view_as(y)) + net.head(net.one(x).flatten(2).reshape_as(y)) + net.head(y)


@call
def sizes_nobody_knows(net: Net, x: torch.Tensor) -> Any:
    y = net.two(x)
    count, shape = x.size(0) * y.size(1), torch.zeros(y.shape)
    return net.head(net.one(x)) * count + shape.mean(), y.shape, y.numel(), net.head(y)


@call
def sizes_compared(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    torch._assert(y.shape[1] == y.shape[2], "as many channels as rows")
    return net.head(y)


@call
def output_size(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    return net.head(net.up(net.down(y), output_size=y.shape[-2:])), net.head(net.up(net.down(y), y.size()[-2:]))


@call
def norms_with_computed_weights(net: Net, x: torch.Tensor) -> Any:
    scale, y = net.rows(net.two(x).mean((2, 3)))[0], net.one(x).permute(0, 2, 3, 1)
    return net.linear(F.layer_norm(y, (8,), scale, net.slopes) + F.layer_norm(y, y.shape[-1:]))


@call
def groups_of_a_function(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    return net.head(F.group_norm(y, y.shape[1] // 2) + F.group_norm(y, num_groups=4, weight=net.slopes))


@call
def a_weight_that_a_function_reads_too(net: Net, x: torch.Tensor) -> Any:
    return net.linear(net.one(x).mean((2, 3))) + F.linear(net.two(x).amax((2, 3)), net.linear.weight)


@call
def rows_that_a_function_reads_too(net: Net, x: torch.Tensor) -> Any:
    y = net.table((x[:, 0, 0].abs() * 3).long().clamp(max=6))
    return F.linear(net.rows(y), net.table.weight)


@call
def one_of_a_parameter(net: Net, x: torch.Tensor) -> Any:
    return net.head(net.one(x) * torch.cat([net.slopes[1:], net.slopes[:1]]).view(8, 1, 1))


@call
def a_product_that_loses_all_gates(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x).flatten(2)
    return net.head((y @ y.transpose(1, 2) @ y).view(x.shape[0], 8, 8, 8)), y[:, 4:]


@call
def channels_among_zeros(net: Net, x: torch.Tensor) -> Any:
    first, second = torch.split(net.one(x), [1, 7], 1)
    y = torch.cat([second, first], 1).view(x.shape[0], 2, 4, 8, 8).transpose(1, 2)
    return net.head(y.reshape(x.shape[0], 8, 8, 8))


@call
def a_gram_matrix_of_groups(net: Net, x: torch.Tensor) -> Any:
    y = F.conv2d(net.one(x), net.grouped, padding=1, groups=4).flatten(2)
    return net.head((y @ y.transpose(1, 2) @ y).view(x.shape[0], 8, 8, 8))


@call
def a_depthwise_layer_called_twice(net: Net, x: torch.Tensor) -> Any:
    return net.head(net.depthwise(net.depthwise(net.one(x)).relu()))


@call
def rows_held_to_a_norm(net: Net, x: torch.Tensor) -> Any:
    return net.linear(net.bounded((x[:, 0].abs() * 4).long().clamp(max=19)))


@call
def weights_that_are_buffers(net: Net, x: torch.Tensor) -> Any:
    return F.conv2d(F.conv2d(x, net.first, padding=1).relu(), net.second)


@call
def parts_from_the_end(net: Net, x: torch.Tensor) -> Any:
    y = net.one(x)
    return net.head(torch.cat([y.narrow(1, -4, 4), torch.narrow(y, -3, 1, 4)], 1))


def gated(name: str, groups: Any, seed: int) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(seed)
    model, x = Net(name).double().eval(), torch.randn(2, 3, 8, 8).double()
    graph = passes.InsertChannelGate(groups=groups)(fxprune.trace(model, x)).graph_module
    assert_same(model, graph, x)
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=(torch.rand(gate.width) + 0.1) * (torch.rand(gate.width) < 0.5))
    return graph, x


def assert_same(one: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    for a, b in zip(tree_leaves(one(x)), tree_leaves(other(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", ["within", "whole"])
@pytest.mark.parametrize("name", CALLS)
def test_it_is_cut_right_or_stays(name: str, groups: Any) -> None:
    graph, x = gated(name, groups, seed=1)
    cut = passes.RemoveChannels(groups=groups)(graph).graph_module
    plain = passes.FuseChannelGate()(cut).graph_module
    for one in (cut, plain):
        assert_same(graph, one, x)
        assert_same(graph, one, torch.cat([x, x[:1] * 2]))


@pytest.mark.parametrize("statistics", ["exact", "approximate"])
@pytest.mark.parametrize("name", ["norms_with_computed_weights", "groups_of_a_function", "sizes_nobody_knows"])
def test_a_share_of_it_goes_and_it_runs(name: str, statistics: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    graph = fxprune.trace(Net(name).eval(), x)
    cut = passes.RemoveChannels(ratio=0.5, statistics=statistics)(graph).graph_module
    shapes = [[getattr(one, "shape", one) for one in tree_leaves(each(x))] for each in (graph, cut)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("groups", ["within", "whole"])
@pytest.mark.parametrize("name", ["a_gram_matrix_of_groups", "groups_of_a_function"])
def test_gates_of_other_groups_than_those_that_go(name: str, groups: Any) -> None:
    graph, x = gated(name, groups, seed=0)
    cut = passes.RemoveChannels(groups="whole" if groups == "within" else "within")(graph).graph_module
    assert_same(graph, cut, x)


@pytest.mark.parametrize("train", [False, True])
def test_a_layer_that_one_mode_calls_first_is_gated_in_both(train: bool) -> None:
    class Modes(Net):
        def forward(self, x: torch.Tensor) -> Any:
            y = self.one(x)
            y = self.down(y) if self.training else self.up(y)
            return self.head(y) + self.head(self.one(x)).mean((2, 3), keepdim=True)

    x = torch.randn(2, 3, 8, 8).double()
    graph = passes.InsertChannelGate()(fxprune.trace(Modes("").double().train(train), x)).graph_module
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=torch.tensor([0.0, 1, 0.5, 0, 1, 1, 0.3, 1]))
    cut = passes.RemoveChannels()(graph).graph_module
    assert_same(graph.eval(), cut.eval(), x)
    cut.train()(x)
