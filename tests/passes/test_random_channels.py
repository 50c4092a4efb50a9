"""Channels of random networks: a cut computes what its gates had left, in float64, at other batches and resolutions.

FXPRUNE_GRAPHS=1000 tries as many, from the seed FXPRUNE_SEED on.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from random_channel_nets import RandomNet
from torch import fx, nn

import fxprune
from fxprune import passes

FIRST, COUNT = int(os.environ.get("FXPRUNE_SEED", "0")), int(os.environ.get("FXPRUNE_GRAPHS", "60"))


def scales(width: int, draw: random.Random) -> torch.Tensor:
    """Return scales, some of which are zero: one, most, those at the ends, or about half."""
    places = torch.arange(width)
    gone = draw.choice(
        [
            torch.rand(width) < 0.5,
            places == draw.randrange(width),
            places != draw.randrange(width),
            (places == 0) | (places == width - 1),
        ]
    )
    return (torch.rand(width) + 0.1).masked_fill(gone, 0)


def gated(model: nn.Module, x: torch.Tensor, groups: Any, draw: random.Random) -> fx.GraphModule:
    graph = passes.InsertChannelGate(groups=groups)(fxprune.trace(model, x)).graph_module
    assert_same(model, graph, x)
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=scales(gate.width, draw))
    return graph


def assert_same(one: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    for a, b in zip(one(x), other(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def others(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return inputs of another batch, and of another resolution where the network takes it."""
    wide = torch.randn(1, 3, 12, 10).double()
    try:
        model(wide)
    except RuntimeError:
        return [torch.cat([x, x[:1]])]
    return [torch.cat([x, x[:1]]), wide]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_cut_computes_what_its_gates_had_left(seed: int) -> None:
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model, x = RandomNet(seed).double().eval(), torch.randn(2, 3, 8, 8).double()
    groups: Any = draw.choice(["within", "whole"])
    graph = gated(model, x, groups, draw)
    cut = passes.RemoveChannels(groups=groups)(graph).graph_module
    first = draw.random() < 0.5
    plain = passes.FuseChannelGate()(cut if first else graph).graph_module
    plain = plain if first else passes.RemoveChannels(groups=groups)(plain).graph_module
    for given in (x, *others(graph, x)):
        assert_same(graph, cut, given)
        assert_same(graph, plain, given)
