"""Gates of attention as scores, by hand: over the mean, the convs of a stage as one, what goes together as one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small

import fxprune
from benchmarks import networks
from fxprune.choosing.criteria.channel_attention import ChannelAttentionShare
from fxprune.choosing.criteria.width_shares import WidthShares
from fxprune.errors import FxpruneValueError, FxpruneWarning


def test_a_channel_of_several_convs_is_worth_their_mean_over_that_of_all() -> None:
    _, graph, _, _ = small()
    gates = {"one": [0.2, 0.4, 0.6, 0.8], "two": [0.4, 0.4, 0.2, 0.6], "three": [0.1, 0.2, 0.3, 0.4, 0.5]}
    found = scores(graph, ChannelAttentionShare(gates))
    assert found[STREAM] == pytest.approx(np.array([0.3, 0.4, 0.4, 0.7]) / 0.45)
    assert found[MIDDLE] == pytest.approx(np.array([0.1, 0.2, 0.3, 0.4, 0.5]) / 0.3)


def test_what_no_gate_is_behind_stays() -> None:
    _, graph, _, _ = small()
    found = scores(graph, ChannelAttentionShare({"one": [0.2, 0.4, 0.6, 0.8]}))
    assert found[STREAM] == pytest.approx(np.array([0.2, 0.4, 0.6, 0.8]) / 0.5)
    assert np.isposinf(found[MIDDLE]).all()


def test_gates_that_are_all_alike_say_nothing() -> None:
    _, graph, _, _ = small()
    gates = {"one": [0.2, 0.4, 0.6, 0.8], "two": [0.4, 0.4, 0.2, 0.6], "three": [0.5] * 5}
    with pytest.warns(FxpruneWarning, match="all gates behind three are alike") as caught:
        found = scores(graph, ChannelAttentionShare(gates))
    assert len(caught) == 1
    assert found[STREAM] == pytest.approx(np.array([0.3, 0.4, 0.4, 0.7]) / 0.45)
    assert np.isposinf(found[MIDDLE]).all()


def resnet_gates(graph: torch.fx.GraphModule) -> Mapping[str, list[float]]:
    draw = np.random.default_rng(0)
    widths = {"layer1": 16, "layer2": 32, "layer3": 64}
    return {
        f"{stage}.{block}.conv1": draw.uniform(0.4, 0.6, width).tolist()
        for stage, width in widths.items()
        for block in range(3)
    }


def test_blocks_of_a_stage_are_scored_alike() -> None:
    graph = fxprune.trace(networks.resnet20().eval(), torch.randn(2, 3, 32, 32))
    gates = resnet_gates(graph)
    found = scores(graph, ChannelAttentionShare(gates))
    for stage in ("layer1", "layer2", "layer3"):
        mean = np.mean([gates[f"{stage}.{block}.conv1"] for block in range(3)], axis=0)
        for block in range(3):
            assert found[f"{stage}.{block}.conv1"] == pytest.approx(mean / mean.mean())


def test_gates_of_another_network_are_refused() -> None:
    _, graph, _, _ = small()
    with pytest.raises(FxpruneValueError, match=r"three has 5 channels, and gates of shape \(4,\)"):
        scores(graph, ChannelAttentionShare({"three": [0.1] * 4}))


def test_uniform_shares_are_the_same_everywhere_and_random_ones_are_not() -> None:
    _, graph, _, _ = small()
    uniform = scores(graph, WidthShares())
    assert uniform[STREAM].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert uniform[MIDDLE] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    one, again, other = (scores(graph, WidthShares(seed)) for seed in (0, 0, 1))
    assert one[STREAM].tolist() == again[STREAM].tolist() != other[STREAM].tolist()
    shares = [uniform[group] / one[group] for group in (STREAM, MIDDLE)]
    assert np.ptp(shares[0]) < 1e-12
    assert shares[0][0] != pytest.approx(shares[1][0])


def test_a_stage_that_is_a_part_of_the_next_one_loses_the_same_share() -> None:
    graph = fxprune.trace(networks.resnet20().eval(), torch.randn(2, 3, 32, 32))
    stream = np.sort(scores(graph, WidthShares())["conv1"])
    assert stream.tolist() == sorted(
        [*(np.arange(16) + 0.5) / 16, *(np.arange(16) + 0.5) / 16, *(np.arange(32) + 0.5) / 32]
    )
