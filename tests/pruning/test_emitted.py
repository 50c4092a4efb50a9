"""The network that would be emitted without something, made of a graph that stays as it is."""

from __future__ import annotations

import torch
from channel_training import gated

from fxprune.choosing.remaining import Remaining
from fxprune.costs.macs import total_macs, total_params
from fxprune.pruning.emitted import emitted_without
from fxprune.structures.gated_layers import gates_of


def test_it_costs_what_is_said_to_be_left() -> None:
    graph = gated("branches,channels").train()
    state = {key: one.clone() for key, one in graph.state_dict().items()}
    remaining = Remaining(graph)
    branch = next(iter(remaining.layers.values()))
    chunk = remaining.chunk("two.first_channels", [0, 3, 5])
    plain = emitted_without(graph, [branch, chunk], channels=True)
    assert gates_of(plain) == []
    assert total_macs(plain) == remaining.left([branch, chunk]).macs
    assert total_params(plain) < total_params(graph)
    assert graph.training
    assert all(torch.equal(state[key], one) for key, one in graph.state_dict().items())
