"""Residual branches: found in whatever form they are written, and every other sum with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet, Wrapped, example, traced
from torch import nn
from torch.nn import functional

from fxprune.costs.macs import node_macs
from fxprune.passes import InsertBranchScale
from fxprune.structures.branch_weights import size_weights
from fxprune.structures.branches import Branch, find_branches
from fxprune.structures.gated_layers import layers


def conv(channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


def branches_of(function: Callable[[Any, torch.Tensor], torch.Tensor], **modules: Any) -> list[Branch]:
    return find_branches(traced(Wrapped(function, **modules), example(2, 4, 6, 6)))


def scaled_shift(m: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = m.norm(x.permute(0, 2, 3, 1))
    return x + functional.dropout(m.gamma[:, None, None] * m.a(y.permute(0, 3, 1, 2)), 0.1, m.training)


def squeeze_excite(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = functional.silu(m.a(x))
    y = y * torch.sigmoid(m.b(functional.adaptive_avg_pool2d(y, 1)))
    z: torch.Tensor = m.c(y) + x
    return z


def reshaping(m: Any, x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    tokens = m.a(x).reshape(n, c, h * w)
    return torch.add(x, tokens.reshape(n, c, h, w))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + m.a(x),
        lambda m, x: torch.add(m.a(torch.relu(x)), x),
        lambda m, x: m.a(x).add(x),
        lambda m, x: m.a(x).add_(x),
        lambda m, x: m.skip(x) + m.a(x),
        lambda m, x: x + m.a(m.skip(x)),
        scaled_shift,
        squeeze_excite,
        reshaping,
    ],
)
def test_one_branch_in_many_forms(function: Any) -> None:
    layers: dict[str, Any] = {name: conv() for name in "abc"}
    layers |= {"skip": nn.Identity(), "norm": nn.LayerNorm(4), "gamma": nn.Parameter(torch.ones(4))}
    (branch,) = branches_of(function, **layers)
    assert branch.reason is None
    assert branch.entry is not None
    assert branch.entry.name == "x"  # the model's own input
    assert branch.macs == sum(node_macs(node) for node in branch.nodes) // 2 > 0


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.a(x) + m.b(x), "no residual"),
        (lambda m, x: x + torch.relu(x), "no convolution"),
        (lambda m, x: (y := m.a(x)) + x + torch.relu(y), "is read by others too"),
        (lambda m, x: m.b(y := m.a(x)) + x + y.mean(), "is read by mean outside"),
        (lambda m, x: m.b(y := m.a(x)) + functional.interpolate(x, y.shape[2:]), "no residual"),
    ],
)
def test_sums_that_end_no_branch_say_why(function: Any, reason: str) -> None:
    found = branches_of(function, a=conv(), b=conv())
    assert reason in str(found[0].reason)
    assert not found[0].eligible


class Add(nn.Module):
    """No sum, whatever its name; opaque."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a if a.sum() > 1e9 else a - 3 * b


def test_a_module_with_the_name_of_a_method_is_no_sum() -> None:
    assert branches_of(lambda m, x: m.add(x, m.a(x)), a=conv(), add=Add()) == []
    (branch,) = branches_of(lambda m, x: m.mul(x, x) + m.a(x), a=conv(), mul=Add())
    assert not branch.eligible


def test_a_parameter_with_the_name_of_a_method_is_a_layer_scale() -> None:
    scale = nn.Parameter(torch.ones(4, 1, 1))
    (branch,) = branches_of(lambda m, x: x + m.reshape * m.a(x), a=conv(), reshape=scale)
    assert branch.exit is not None
    assert size_weights(branch.exit) == ["reshape", "a.weight"]


def test_what_is_counted_on_inside_and_used_outside_keeps_the_branch() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return (x + m.b(y)) * y.shape[1]  # type: ignore[no-any-return]

    (branch,) = branches_of(function, a=conv(), b=conv())
    assert "outside" in str(branch.reason)


def test_parameters_that_others_hold_too_do_not_go_with_a_branch() -> None:
    found = branches_of(lambda m, x: (y := x + m.b(m.a(x))) + m.a(y), a=conv(), b=conv())
    assert [branch.params for branch in found] == [4 * 4 * 9 + 4, 0]


def test_terms_of_a_longer_sum_are_branches_each() -> None:
    found = branches_of(lambda m, x: x + m.a(x) + m.b(x), a=conv(), b=conv())
    assert [branch.reason for branch in found] == [None, None]
    assert [[node.name for node in branch.nodes] for branch in found] == [["a"], ["b"]]


def test_a_branch_inside_a_branch_is_counted_once() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        z = m.a(y)
        return y + m.c(z + m.b(z))  # type: ignore[no-any-return]

    graph = traced(Wrapped(function, a=conv(), b=conv(), c=conv()), example(2, 4, 6, 6))
    assert [branch.eligible for branch in find_branches(graph)] == [True, True]
    inner, outer = layers(InsertBranchScale()(graph).graph_module)
    assert inner.nodes < outer.nodes
    assert outer.macs == 3 * inner.macs
    assert inner.macs_beside(outer.nodes) == 0


def test_every_block_of_a_residual_network() -> None:
    found = find_branches(traced(TinyNet(), example(2, 3, 8, 8)))
    assert [branch.path for branch in found] == ["block1 [conv1 ... bn2]", "block2 [conv1 ... bn2]"]
    assert all(branch.eligible for branch in found)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x + m.norm(m.a(x)), ["norm.weight"]),
        (lambda m, x: x + m.b(torch.relu(m.norm(m.a(x)))), ["b.weight", "norm.weight"]),
        (lambda m, x: x + m.gamma.reshape(-1, 1, 1) * m.a(x), ["gamma", "a.weight"]),
        (lambda m, x: x + m.scale * m.b(functional.gelu(m.a(x))), ["scale", "b.weight"]),
        (lambda m, x: x + m.b(functional.silu(m.a(x))) * 0.5, ["b.weight"]),
        (lambda m, x: x + functional.conv2d(x, m.kernel, padding=1), ["kernel"]),
        (lambda m, x: x + torch.sigmoid(m.a(x)), []),
    ],
)
def test_the_weights_that_set_a_branchs_size(function: Any, expected: list[str]) -> None:
    modules: dict[str, Any] = {"a": conv(), "b": conv(), "norm": nn.BatchNorm2d(4)}
    modules |= {
        "gamma": nn.Parameter(torch.ones(4)),
        "scale": nn.Parameter(torch.ones(4, 1, 1)),
        "kernel": nn.Parameter(torch.randn(4, 4, 3, 3)),
    }
    (branch,) = branches_of(function, **modules)
    assert branch.eligible
    assert size_weights(branch.exit) == expected


def test_a_region_ends_before_the_shortcut_of_its_sum() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = x + m.a(x)
        return y + torch.relu(y)  # type: ignore[no-any-return]

    found = branches_of(function, a=conv())
    assert [branch.reason for branch in found] == [None, "it holds no convolution and no linear layer"]
