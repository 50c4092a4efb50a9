"""Penalties without gates: whole channels become zero, and are removed exactly."""

from __future__ import annotations

import pytest
import torch
from channel_training import Blocks

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def traced() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(Blocks().double().eval(), torch.randn(8, 3, 8, 8).double())


def test_group_lasso_makes_zeros_that_go_without_a_change() -> None:
    graph = traced()
    before = total_macs(graph)
    lasso = fxprune.GroupLasso(graph, strength=0.1)
    assert lasso.width == 16 + 8 + 16
    while lasso.zeros < 8:
        lasso.step(0.01)
    assert lasso.zeros < lasso.width
    result = fxprune.Pipeline([passes.RemoveChannels()])(graph)
    assert total_macs(result.graph_module) < before
    torch.testing.assert_close(result.graph_module(IMAGES), graph(IMAGES), rtol=1e-9, atol=1e-9)


def test_one_step_is_the_proximal_operator() -> None:
    graph = traced()
    kept = ("stem", "two", "one.norm1.weight")
    lasso = fxprune.GroupLasso(graph, strength=2.0, only=["one.first"])
    first, norm, second = (graph.get_parameter(f"one.{one}.weight") for one in ("first", "norm1", "second"))
    bias = graph.get_parameter("one.norm1.bias")
    held = [first[3].flatten(), norm[3:4], bias[3:4], second[:, 3].flatten()]
    whole = torch.cat([one.detach() for one in held])
    expected = whole * max(0.0, 1 - 0.01 * 2.0 * len(whole) ** 0.5 / float(whole.norm()))
    others = {name: one.clone() for name, one in graph.named_parameters() if name.startswith(kept[:2])}
    lasso.step(0.01)
    found = torch.cat([first[3].flatten(), norm[3:4], bias[3:4], second[:, 3].flatten()]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(graph.get_parameter(name), one) for name, one in others.items())


def test_network_slimming_shrinks_the_scales_of_norms_alone() -> None:
    graph = traced()
    slimming = fxprune.NetworkSlimming(graph, strength=3.0, only=["one.first", "two.first"])
    before = {name: one.clone() for name, one in graph.named_parameters()}
    slimming.step(0.1)
    for name, one in graph.named_parameters():
        if name in ("one.norm1.weight", "two.norm1.weight"):
            torch.testing.assert_close(one, before[name] - 0.3)
        else:
            assert torch.equal(one, before[name]), name


def test_what_cannot_be_shrunk_is_said() -> None:
    with pytest.raises(fxprune.FxpruneError, match="the strength of GroupLasso is above 0; got 0"):
        fxprune.GroupLasso(traced(), 0.0)
    narrow = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU()).double()
    graph = fxprune.trace(narrow, torch.randn(1, 3, 4, 4).double())
    with pytest.raises(fxprune.FxpruneError, match="GroupLasso finds no channel that can go"):
        fxprune.GroupLasso(graph)
