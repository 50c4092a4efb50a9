"""A network that is trained without its closed channels: every step is that of the whole with its zeros."""

from __future__ import annotations

from typing import Any

import torch
from channel_training import gated

import fxprune
from fxprune.gates.channel_gate import ChannelScale
from fxprune.passes import RemoveChannels
from fxprune.pipelines.pipeline import Pipeline
from fxprune.training.sliced import Slices
from fxprune.weights.slicing import noting_slices

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def halved() -> Any:
    graph = gated().train()
    for gate in fxprune.gates_of(graph):
        assert isinstance(gate.module, ChannelScale)
        gate.module.close_classes(range(0, gate.width, 2))
        gate.module.train_scale(False)
    return graph


def test_steps_are_those_of_the_whole_network() -> None:
    whole, sliced = halved(), halved()
    with noting_slices() as noted:
        part = Pipeline([RemoveChannels()], verify=False)(sliced).graph_module
    slices = Slices(noted)
    assert sum(p.numel() for p in part.parameters()) < 0.5 * sum(p.numel() for p in whole.parameters())
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9) for one in (whole, sliced)]
    for _ in range(5):
        for network, optimizer in zip((whole, part.train()), optimizers, strict=True):
            optimizer.zero_grad()
            slices.pull()
            network(IMAGES).square().mean().backward()
            slices.push()
            optimizer.step()
    for one in (whole, sliced, part):
        one.eval()
    slices.pull()
    torch.testing.assert_close(sliced(IMAGES), whole(IMAGES))
    torch.testing.assert_close(part(IMAGES), whole(IMAGES))


def test_outside_nothing_is_noted() -> None:
    with noting_slices() as noted:
        pass
    Pipeline([RemoveChannels()], verify=False)(halved())
    assert noted == []
