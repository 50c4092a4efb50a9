"""Calls that channels follow: all can go, and a cut computes what its gates had left; and calls where they stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from channel_calls import FREE, STAYS, Forward, Net
from channel_nets import masks
from torch import fx, nn
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.structures.channels.groups import Channels

SHARES = ("half", "one", "all but one", "ends")


def traced(forward: Forward) -> tuple[fx.GraphModule, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8).double()
    return fxprune.trace(Net(forward).double().eval(), x), x


def others(graph: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return inputs of other batches, and of another resolution where the graph takes it."""
    wide = torch.randn(1, 3, 12, 10).double()
    try:
        graph.forward(wide)
    except RuntimeError:
        return [torch.cat([x, x[:1] * 2])]
    return [torch.cat([x, x[:1] * 2]), wide]


@pytest.mark.parametrize("groups", ["within", "whole"])
@pytest.mark.parametrize("name", FREE)
def test_a_cut_computes_what_its_gates_had_left(name: str, groups: Any) -> None:
    graph, x = traced(FREE[name])
    gated = passes.InsertChannelGate(groups=groups)(graph).graph_module
    gates = list(fxprune.gates_of(gated))
    assert gates
    for share in SHARES:
        for gate in gates:
            gate.assign(scale=masks(gate.width, share))
        cut = passes.RemoveChannels(groups=groups)(gated)
        assert cut.modified
        assert not cut.declined
        plain = passes.FuseChannelGate()(cut.graph_module).graph_module
        for given in (x, *others(graph, x)):
            expected = gated(given)
            for one in (cut.graph_module, plain):
                torch.testing.assert_close(one(given), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FREE)
def test_nothing_but_outputs_stays(name: str) -> None:
    channels = Channels(traced(FREE[name])[0])
    classes = [one for group in channels.groups for one in group.classes.tolist()]
    assert {channels.reasons[one].why for one in classes if one in channels.reasons} <= {"an output of the network"}
    assert any(len(one.free) for one in channels.groups)


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_has_its_reason(name: str) -> None:
    why, forward = STAYS[name]
    channels = Channels(traced(forward)[0])
    group = next(one for one in channels.groups if one.name == "one")
    assert why in {channels.reasons[one].why for one in group.classes.tolist() if one in channels.reasons}


def test_a_layer_that_computes_its_weight_names_what_makes_it_plain() -> None:
    x = torch.randn(2, 3, 8, 8)
    norms: list[Any] = [parametrizations.weight_norm, parametrizations.spectral_norm]
    for norm in norms:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), norm(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 5, 1)).eval()
        graph = fxprune.trace(model, x)
        (why,) = {one.why for one in Channels(graph).reasons.values() if "output" not in one.why}
        assert why == "its weight is computed in forward: FreezeWeights makes it plain"
        channels = Channels(passes.FreezeWeights()(graph).graph_module)
        assert all("output" in one.why for one in channels.reasons.values())
