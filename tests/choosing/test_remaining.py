"""What is left without some layers and channels, by formula: as the cut graph has it."""

from __future__ import annotations

import pytest
import torch
from channel_nets import NETS
from channel_training import gated

import fxprune
from fxprune import passes
from fxprune.choosing.graph_costs import Cost
from fxprune.choosing.remaining import Remaining
from fxprune.costs.macs import total_macs, total_params

MORE_GOES = {"Slices", "UnreadChannels"}  # what nobody reads goes too
LESS_GOES = {"OverlappingParts"}  # each of its parts keeps two


@pytest.mark.parametrize("name", sorted(NETS.keys() - MORE_GOES - LESS_GOES))
def test_costs_without_channels_are_those_of_the_cut_graph(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    graph = passes.InsertChannelGate()(traced).graph_module
    remaining = Remaining(graph)
    assert remaining.left(())[:2] == pytest.approx((total_macs(traced), total_params(traced)))
    chunks = []
    for path, gate in remaining.channels.items():
        places = torch.randperm(gate.width)[: gate.width // 2].tolist()
        scale = torch.ones(gate.width)
        scale[places] = 0
        gate.assign(scale=scale)
        chunks += [remaining.chunk(path, places)] if places else []
    cut = passes.RemoveChannels()(graph).graph_module
    left = remaining.left(chunks)
    assert left[:2] == pytest.approx((total_macs(cut), total_params(cut)))
    saved = remaining.saved(chunks, ())
    for chunk in chunks:
        alone = remaining.left([chunk])
        whole = remaining.left(())
        gone = (whole.macs - alone.macs, whole.params - alone.params)
        assert saved[chunk.path][:2] == pytest.approx(gone)


def test_layers_and_channels_together() -> None:
    graph = gated("branches,channels")
    remaining = Remaining(graph)
    branch = next(iter(remaining.layers.values()))
    inner = remaining.chunk("one.first_channels", [0, 1])
    whole, without = remaining.left(()), remaining.left([branch])
    assert remaining.saved([branch], ())[branch.path].macs == whole.macs - without.macs
    assert remaining.left([branch, inner]) == without  # it lies in the branch
    assert remaining.saved([inner], [branch])[inner.path] == Cost()
    assert remaining.saved([branch], [inner])[branch.path].macs == remaining.left([inner]).macs - without.macs
    assert remaining.joined_without(branch) == frozenset()


def test_a_conv_ties_the_channels_that_it_reads_to_those_that_it_makes() -> None:
    graph = gated("convs,channels")
    remaining = Remaining(graph)
    tied = remaining.joined_without(remaining.layers["two.first"])
    chunks = [remaining.chunk(path, range(gate.width)) for path, gate in remaining.channels.items()]
    assert {one.path for one in chunks if tied & {*one.classes.tolist()}} == {"stem_channels", "two.first_channels"}
