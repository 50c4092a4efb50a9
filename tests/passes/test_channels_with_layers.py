"""Channels and layers in one pipeline: what both leave computes what was asked for, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs
from fxprune.passes.chains import FINISHING
from fxprune.pipelines.chains import insert_scales


def traced(name: str = "resnet18") -> fx.GraphModule:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).double().eval()
    return fxprune.trace(model, torch.randn(2, 3, 64, 64).double())


def sparse(graph: fx.GraphModule) -> fx.GraphModule:
    """Return the graph with layer gates, every second of which is zero."""
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    for index, gate in enumerate(one for one in fxprune.gates_of(inserted) if one.removable):
        gate.assign(scale=float(index % 2))
    return inserted


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_layers_first_and_then_channels(name: str) -> None:
    steps = [passes.RemoveLayers(threshold=0), *fxprune.AFTER_TRAINING, passes.InsertChannelGate()]
    gated = fxprune.Pipeline(steps, verify=True)(sparse(traced(name))).graph_module
    torch.manual_seed(1)
    for gate in fxprune.gates_of(gated):
        gate.assign(scale=(torch.rand(gate.width) > 0.5).double())
    result = fxprune.Pipeline([passes.RemoveChannels(), passes.FuseChannelGate()], verify=True)(gated)
    x = torch.randn(3, 3, 96, 64).double()
    torch.testing.assert_close(result.graph_module(x), gated(x), rtol=1e-9, atol=1e-9)


def test_one_pipeline_for_both() -> None:
    steps = [passes.RemoveLayers(threshold=0), *fxprune.AFTER_TRAINING, passes.RemoveChannels(ratio=0.5)]
    result = fxprune.Pipeline(steps)(sparse(traced()))
    assert result.steps[-1].result.modified
    assert result.graph_module(torch.randn(1, 3, 64, 64).double()).shape == (1, 1000)


def test_channels_before_the_layers_are_fused_leave_what_these_hold_and_say_so() -> None:
    result = fxprune.Pipeline([passes.RemoveChannels(ratio=0.5), *fxprune.AFTER_TRAINING])(sparse(traced()))
    assert "the channels of layers with an open gate stay" in result.steps[0].result.warnings[0]
    assert result.graph_module(torch.randn(1, 3, 64, 64).double()).shape == (1, 1000)


def halves(graph: fx.GraphModule) -> None:
    """Close every third layer and open the others by other numbers than 1; close half of the channels."""
    torch.manual_seed(1)
    for index, gate in enumerate(fxprune.gates_of(graph)):
        if gate.kind == "channels":
            gate.assign(scale=(torch.rand(gate.width) > 0.5).double())
        else:
            gate.assign(scale=0.8 if index % 3 else 0.0)


@pytest.mark.parametrize("norms", ["fold", "keep"])
@pytest.mark.parametrize("what", ["all", "branches,channels", "convs,channels"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_gates_of_layers_and_of_channels_stand_in_one_graph(name: str, what: str, norms: Any) -> None:
    gated = insert_scales(traced(name), what=what).graph_module
    halves(gated)
    steps = [passes.RemoveLayers(threshold=0), *FINISHING[norms], passes.RemoveChannels()]
    result = fxprune.Pipeline(steps, verify=True)(gated)
    assert total_macs(result.graph_module) < total_macs(gated) * 0.6
    assert not fxprune.gates_of(result.graph_module)
    x = torch.randn(3, 3, 96, 64).double()
    torch.testing.assert_close(result.graph_module(x), gated(x), rtol=1e-9, atol=1e-9)


def test_channels_have_gates_once() -> None:
    gated = insert_scales(traced(), what="channels").graph_module
    assert passes.InsertChannelGate()(gated).warnings == ("the graph has gates of channels already",)


class Standardized(nn.Conv2d):
    """A conv whose weight is standardised in forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, padding=1)


@pytest.mark.parametrize("kind", ["weight_norm", "standardised"])
def test_computed_weights_are_cut_once_they_are_plain(kind: str) -> None:
    def layer(ins: int, outs: int) -> nn.Module:
        if kind == "standardised":
            return Standardized(ins, outs, 3)
        made: nn.Module = nn.utils.parametrizations.weight_norm(nn.Conv2d(ins, outs, 3, padding=1))
        return made

    torch.manual_seed(0)
    model = nn.Sequential(layer(3, 8), nn.ReLU(), layer(8, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)).double().eval()
    graph = fxprune.trace(model, torch.randn(2, 3, 8, 8).double())
    before = passes.RemoveChannels(ratio=0.5)(graph)
    assert not before.modified or sum(p.numel() for p in before.graph_module.parameters()) > 300
    steps = [passes.FreezeWeights(), passes.InsertChannelGate()]
    gated = fxprune.Pipeline(steps, verify=True)(graph).graph_module
    assert [gate.width for gate in fxprune.gates_of(gated)] == [8, 8]
    for gate in fxprune.gates_of(gated):
        gate.assign(scale=torch.tensor([0.0, 1.0] * 4).double())
    result = fxprune.Pipeline([passes.RemoveChannels(), passes.FuseChannelGate()], verify=True)(gated)
    assert sum(p.numel() for p in result.graph_module.parameters()) < 300


def test_beside_branches_that_rest_channels_are_cut() -> None:
    gated = insert_scales(traced(), what="branches,channels").graph_module
    for gate in fxprune.gates_of(gated):
        if gate.kind == "channels":
            gate.assign(scale=(torch.arange(gate.width) % 2).double())
        else:
            gate.module.rest()
    result = fxprune.Pipeline([passes.RemoveChannels()], verify=True)(gated)
    assert total_macs(result.graph_module) < total_macs(gated) * 0.4
    for gate in fxprune.gates_of(result.graph_module):
        if gate.kind == "branch":
            gate.wake()
    x = torch.randn(3, 3, 96, 64).double()
    torch.testing.assert_close(result.graph_module(x), gated(x), rtol=1e-9, atol=1e-9)
