"""Some channels of a group as one: their labels, and their scales lowered for a moment."""

from __future__ import annotations

import torch
from channel_nets import NETS
from channel_training import gated

import fxprune
from fxprune import passes
from fxprune.structures.channel_chunk import Chunk, classes_of_gates
from fxprune.structures.channels.groups import Channels

UNREAD = ("Slices", "UnreadChannels", "OverlappingParts")
"""Networks with channels that nobody reads."""


def test_each_scale_has_the_class_that_goes_with_it() -> None:
    for name, make in NETS.items():
        torch.manual_seed(0)
        model, inputs = make()
        graph = passes.InsertChannelGate()(fxprune.trace(model.eval(), inputs)).graph_module
        gates = fxprune.gates_of(graph)
        channels = Channels(graph, gated=True)
        found = classes_of_gates(channels)
        for gate in gates:
            if gate.region:
                continue
            classes = found[gate.node]
            read = classes[classes > 0]
            assert len(read) == gate.width or name in UNREAD, name
            assert len({*read.tolist()}) == len(read), name
            assert not channels.reasons.keys() & {*read.tolist()}, name


def test_a_chunk_is_lowered_for_a_moment() -> None:
    graph = gated()
    gate = fxprune.gates_of(graph)[0]
    classes = classes_of_gates(Channels(graph, gated=True))[gate.node]
    chunk = Chunk(gate, (1, 3), classes[[1, 3]])
    for state in ("open", "resting"):
        if state == "resting":
            gate.module.rest()
        with chunk.lowered(0.5):
            assert gate.scale.tolist()[:5] == [1, 0.5, 1, 0.5, 1]
        assert gate.scale.tolist() == [1] * gate.width
        assert gate.module.resting == (state == "resting")
    assert (chunk.path, chunk.nodes) == (gate.path, frozenset())
