"""A graph that overwrites where the emitted network does."""

from __future__ import annotations

import operator

import torch
from latency_helpers import small_graph
from torch import nn

import fxprune
from fxprune.costs.latency.in_place import in_place_copy
from fxprune.facts.overwriting import overwritten


def test_it_computes_the_same_and_overwrites() -> None:
    graph = small_graph()
    made = in_place_copy(graph)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made(x), graph(x))
    assert len(overwritten(graph.graph)) == 5
    in_place = [node for node in made.graph.nodes if node.kwargs.get("inplace") or node.target is operator.iadd]
    assert len(in_place) == 5


def test_layers_are_copied_before_they_are_changed() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), torch.randn(1, 3, 4, 4))
    made = in_place_copy(graph)
    relus = [next(one for one in each.modules() if isinstance(one, nn.ReLU)) for each in (graph, made)]
    assert [one.inplace for one in relus] == [False, True]
