"""Random prunings: of all sizes, the same for the same seed, the network itself first."""

from __future__ import annotations

import torch
from latency_helpers import small_graph
from torch import nn

import fxprune
from fxprune.costs.macs import total_macs
from fxprune.pruning.random_prunings import random_prunings


def test_they_lose_more_and_more_and_run() -> None:
    graph = small_graph()
    networks = random_prunings(graph, 6)
    macs = [total_macs(one) for one in networks]
    assert macs[0] == total_macs(graph)
    assert macs == sorted(set(macs), reverse=True)
    assert macs[-1] < 0.7 * macs[0]
    for one in networks:
        assert one(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    assert [total_macs(one) for one in random_prunings(graph, 6)] == macs
    assert [total_macs(one) for one in random_prunings(graph, 6, seed=1)] != macs


def test_a_network_of_which_nothing_can_go_stays() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(1, 4))
    assert [total_macs(one) for one in random_prunings(graph, 3)] == [12, 12, 12]
