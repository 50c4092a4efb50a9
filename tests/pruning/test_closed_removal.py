"""What is closed leaves a graph: not what is zero by chance, nor what an open gate is measured by."""

from __future__ import annotations

import torch
from channel_training import gated

import fxprune
from fxprune.gates.channel_gate import ChannelScale
from fxprune.pruning.closed_removal import RemoveClosedChannels, narrowed_state, shortened, tensors_of
from fxprune.structures.gated_layers import gates_of

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def closed(what: str, places: tuple[int, ...] = (0, 2)) -> tuple[fxprune.SteeredL1, torch.fx.GraphModule]:
    graph = gated(what).train()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=20, probe_inputs=(IMAGES,))
    gate = next(one for one in gates_of(graph) if one.path == "two.first_channels")
    assert isinstance(gate.module, ChannelScale)
    gate.wake()
    gate.module.close_classes(places)
    return shrink, graph


def test_zero_columns_that_are_not_closed_stay() -> None:
    _, graph = closed("channels")
    with torch.no_grad():
        graph.get_parameter("head.layer.weight").zero_()  # of a classifier that begins so
    made = shortened(graph)
    assert made is not None
    assert made.channels == {"two.first_channels": [0, 2]}
    assert made.graph_module.get_parameter("head.layer.weight").shape == (4, 16)
    torch.testing.assert_close(made.graph_module.eval()(IMAGES), graph.eval()(IMAGES), rtol=1e-9, atol=1e-9)


def test_channels_around_an_open_gate_stay_until_it_rests_or_is_gone() -> None:
    shrink, graph = closed("all")
    gate = next(one for one in gates_of(graph) if one.path == "two.first")
    gate.wake()
    assert shortened(graph) is None
    gate.module.rest()
    made = shortened(graph)
    assert made is not None
    assert made.channels == {"two.first_channels": [0, 2]}
    again = {one.path: one.module for one in gates_of(made.graph_module)}
    assert again["two.first"].resting
    assert not again["two.first"].removable  # what it reads are not the channels any more that it makes
    assert shrink.layers["two.first"].removable


def test_the_state_of_the_rows_that_stay_is_told_by_keys() -> None:
    _, graph = closed("channels")
    made = shortened(graph)
    assert made is not None
    state = narrowed_state(graph.state_dict(), made.sources)
    kept = [one for one in range(16) if one not in (0, 2)]
    assert torch.equal(state["two.norm1.weight"], graph.get_parameter("two.norm1.weight")[kept])
    for key, tensor in tensors_of(made.graph_module).items():
        assert torch.equal(state[key], tensor), key


def test_where_nothing_is_closed_there_is_nothing_to_do() -> None:
    assert shortened(gated("all")) is None
    assert not RemoveClosedChannels()(gated()).modified
