"""InsertBranchScale: function unchanged, together with ResConvs, and where it does not fire."""

from __future__ import annotations

import torch
from helpers import Wrapped, assert_rewrites, example, targets, tiny, traced
from torch import nn

import fxprune
from fxprune import passes
from fxprune.structures.gated_layers import layers


def test_a_scale_on_every_branch() -> None:
    result = assert_rewrites(tiny(), passes.InsertBranchScale(), count=2)
    assert [layer.path for layer in layers(result.graph_module)] == ["block1.branch_scale", "block2.branch_scale"]
    assert targets(result.graph_module).count("BranchScale") == 2
    assert "bn2.weight" in result.graph_module.code  # the gauge reads the branch's last norm


def test_a_branch_with_a_layer_that_is_kept_is_declined() -> None:
    result = assert_rewrites(tiny(), passes.InsertBranchScale(keep=["block1.conv2"]), count=1)
    assert [str(site) for site in result.declined] == ["block1: kept by the user"]
    wrapped = passes.InsertResConv()(tiny()).graph_module
    assert_rewrites(wrapped, passes.InsertBranchScale(only=["block1"]), count=1)


def test_chained_branches_and_two_in_one_block() -> None:
    def function(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = m.a(x) + x  # type: ignore[operator]
        return x + m.b(x)  # type: ignore[operator, no-any-return]

    modules = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "ab"}
    result = assert_rewrites(
        traced(Wrapped(function, **modules), example(2, 4, 5, 5)), passes.InsertBranchScale(), count=2
    )
    assert [layer.path for layer in layers(result.graph_module)] == ["branch_scale", "branch_scale_1"]


def test_together_with_resconvs() -> None:
    both = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny())
    found = layers(both.graph_module)
    assert [type(layer.module).__name__ for layer in found] == ["ResConv", "ResConv", "BranchScale"] * 2
    assert found[2].nodes > found[0].nodes | found[1].nodes


def test_training_reaches_every_scale_and_the_weights() -> None:
    graph = passes.InsertBranchScale()(tiny()).graph_module.train()
    graph(example(4, 3, 8, 8)).square().sum().backward()
    assert all(layer.module.gate.grad is not None for layer in layers(graph))
    assert graph.get_submodule("block1.bn2").weight.grad is not None


def test_a_sum_that_is_no_residual_is_declined_with_its_reason() -> None:
    modules = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "ab"}
    graph = traced(Wrapped(lambda m, x: m.a(x) + m.b(x), **modules), example(2, 4, 5, 5))
    result = assert_rewrites(graph, passes.InsertBranchScale(), count=0)
    assert "no residual" in str(result.declined[0])
