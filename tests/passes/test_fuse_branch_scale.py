"""FuseBranchScale: the scale of a branch that stays ends in its last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, assert_rewrites, example, targets, traced
from torch import nn

import fxprune
from fxprune import passes
from fxprune.structures.gated_layers import layers


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x + m.norm(m.a(x)), ["Conv2d", "add"]),
        (lambda m, x: x + m.b(torch.tanh(m.a(x))), ["Conv2d", "tanh", "Conv2d", "add"]),
        (lambda m, x: x + m.scale * torch.tanh(m.a(x)), ["Conv2d", "tanh", "mul", "add"]),
        (lambda m, x: x + m.group(m.a(x)), ["Conv2d", "GroupNorm", "add"]),
        (lambda m, x: x + torch.tanh(m.a(x)), ["Conv2d", "tanh", "mul", "add"]),
    ],
)
def test_the_scale_goes_into_the_last_layer(
    function: Callable[[Any, torch.Tensor], torch.Tensor], expected: list[str]
) -> None:
    modules: dict[str, Any] = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "ab"}
    modules |= {"norm": nn.BatchNorm2d(4), "group": nn.GroupNorm(2, 4), "scale": nn.Parameter(torch.rand(4, 1, 1))}
    graph = passes.InsertBranchScale()(traced(Wrapped(function, **modules), example(2, 4, 5, 5))).graph_module
    (layer,) = layers(graph)
    layer.assign(scale=-0.6)
    fused = assert_rewrites(graph, passes.FuseBranchScale(), count=1)
    result = fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])(fused.graph_module)
    assert targets(result.graph_module) == expected
    assert not [node for node in result.graph_module.graph.nodes if "branch_scale" in str(node.target)]


def test_a_scale_of_one_adds_nothing() -> None:
    graph = traced(Wrapped(lambda m, x: x + m.a(x), a=nn.Conv2d(4, 4, 1)), example(2, 4, 5, 5))
    scaled = passes.InsertBranchScale()(graph).graph_module
    assert targets(passes.FuseBranchScale()(scaled).graph_module) == targets(graph)


def test_an_attention_takes_the_scale_into_its_last_projection() -> None:
    model = Wrapped(lambda m, x: x + m.attention(x, x, x)[0], attention=nn.MultiheadAttention(8, 2, batch_first=True))
    graph = passes.InsertBranchScale()(traced(model, example(2, 5, 8))).graph_module
    (layer,) = layers(graph)
    layer.assign(scale=0.6)
    result = fxprune.Pipeline([passes.FuseBranchScale(), passes.Simplify()])(graph)
    assert targets(result.graph_module) == ["MultiheadAttention", "getitem", "add"]


def test_an_attention_whose_weights_are_read_does_not() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y, weights = m.attention(x, x, x)
        return y * 0.5 + weights.mean()  # type: ignore[no-any-return]

    model = Wrapped(function, attention=nn.MultiheadAttention(8, 2, batch_first=True))
    assert_rewrites(traced(model, example(2, 5, 8)), passes.FoldScale(), count=0)
