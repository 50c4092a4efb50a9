"""The channels of a graph as sites: one a group of which something can go."""

from __future__ import annotations

import torch
from channel_nets import NETS
from criterion_nets import MIDDLE, STREAM, small
from torch import nn

import fxprune
from fxprune import passes
from fxprune.choosing.sites import Site, channel_sites


def test_there_is_one_for_each_group_with_channels_that_can_go() -> None:
    _, graph, _, _ = small()
    sites = channel_sites(graph)
    assert [(site.kind, site.path, site.region, site.width) for site in sites] == [
        ("channels", STREAM, "", 4),
        ("channels", MIDDLE, "", 5),
    ]
    assert repr(sites[0]) == "ChannelSite('one', width=4)"
    one: Site = sites[0]
    assert one.kind == "channels"


def test_a_gate_is_a_site_too() -> None:
    graph = fxprune.insert_scales(small()[1]).graph_module
    gates: list[Site] = list(fxprune.gates_of(graph))
    assert {gate.kind for gate in gates} <= {"conv", "branch"}
    assert {gate.width for gate in gates} == {1}


def test_options_are_those_of_the_groups() -> None:
    torch.manual_seed(0)
    model, inputs = NETS["Grouped"]()
    graph = fxprune.trace(model.eval(), inputs)
    within, whole = (channel_sites(graph, groups=one) for one in ("within", "whole"))
    assert [site.width for site in within] != [site.width for site in whole]
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    normed = fxprune.trace(net.eval(), torch.randn(2, 4))
    assert channel_sites(normed) == []
    assert [site.width for site in channel_sites(normed, statistics="approximate")] == [6]


def test_paths_are_the_same_with_and_without_gates() -> None:
    _, graph, _, _ = small()
    gated = passes.InsertChannelGate()(graph).graph_module
    assert [(site.path, site.width) for site in channel_sites(gated)] == [
        (site.path, site.width) for site in channel_sites(graph)
    ]
