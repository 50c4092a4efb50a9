"""Channels from end to end, on networks of every structure: a cut computes what its gates had left, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from channel_nets import NETS, masks
from torch import fx, nn
from torch.utils._pytree import tree_leaves

import fxprune
from fxprune import passes

Groups = Literal["within", "whole"]
FIXED = (
    "FlattenToLinear",
    "ViewToLinear",
    "Attention",
    "Mixer",
    "RelativeBias",
    "Gram",
)  # of one resolution, or number of tokens


def gated(
    name: str, share: str, groups: Groups, seed: int = 0
) -> tuple[fx.GraphModule, fx.GraphModule, tuple[torch.Tensor, ...]]:
    """Return the traced graph, the same with gates of which some are zero, and inputs."""
    torch.manual_seed(seed)
    model, inputs = NETS[name]()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    traced = fxprune.trace(model.double().eval(), inputs)
    result = passes.InsertChannelGate(groups=groups)(traced)
    for gate in fxprune.gates_of(result.graph_module):
        gate.assign(scale=masks(gate.width, share))
    return traced, result.graph_module, inputs


def other_inputs(name: str, inputs: tuple[torch.Tensor, ...]) -> list[tuple[torch.Tensor, ...]]:
    """Return inputs of another batch size, and of another resolution where the network takes one."""
    found = [tuple(torch.cat([x, x, x])[:5] * 1.3 for x in inputs)]
    if name not in FIXED and inputs[0].dim() == 4:
        found.append(tuple(torch.randn(1, x.shape[1], 12, 10).double() for x in inputs))
    return found


def assert_same(one: fx.GraphModule, other: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(tree_leaves(one(*inputs)), tree_leaves(other(*inputs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", ["half", "one", "all but one", "ends"])
@pytest.mark.parametrize("name", NETS)
def test_a_cut_computes_what_zero_gates_had_left(name: str, share: str) -> None:
    check(name, share, "within")


@pytest.mark.parametrize("name", NETS)
def test_whole_groups_and_heads_likewise(name: str) -> None:
    check(name, "half", "whole")


def check(name: str, share: str, groups: Groups) -> None:
    traced, graph, inputs = gated(name, share, groups)
    cut = passes.RemoveChannels(groups=groups)(graph)
    plain = passes.FuseChannelGate()(cut.graph_module).graph_module
    fused = passes.RemoveChannels(groups=groups)(passes.FuseChannelGate()(graph).graph_module).graph_module
    for given in (inputs, *other_inputs(name, inputs)):
        for one in (cut.graph_module, plain, fused):
            assert_same(graph, one, given)
    assert not passes.RemoveChannels(groups=groups)(fused).modified
    assert not any(type(one).__module__.startswith("fxprune") for one in plain.modules() if one is not plain)
    assert sum(p.numel() for p in plain.parameters()) <= sum(p.numel() for p in traced.parameters())


@pytest.mark.parametrize("name", ["SelectiveKernel", "SplitShuffle", "Attention", "PaddedShortcut", "Functional"])
def test_a_pipeline_verifies_it_and_it_is_emitted(name: str, tmp_path: Path) -> None:
    _, graph, inputs = gated(name, "half", "within")
    result = fxprune.Pipeline([passes.RemoveChannels(), passes.FuseChannelGate()], verify=True)(graph)
    fxprune.emit(result.graph_module, tmp_path / "out")
    loaded = fxprune.load_emitted(tmp_path / "out")
    assert_same(graph, loaded, inputs)


def test_a_gate_that_one_mode_reads_first_is_there_in_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            x = self.stem(x)
            aux = self.aux(x) if self.training else None
            y: torch.Tensor = self.head(x)
            return (y, aux) if aux is not None else y

    traced = fxprune.trace(Net().eval(), torch.randn(2, 3, 8, 8))
    result = fxprune.Pipeline([passes.InsertChannelGate(), passes.RemoveChannels(ratio=0.5)], verify=True)(traced)
    x = torch.randn(2, 3, 8, 8)
    assert result.graph_module(x).shape == (2, 5, 6, 6)
    assert len(result.graph_module.train()(x)) == 2
