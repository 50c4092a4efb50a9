"""The L1 norm of all rows of a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small
from helpers import tiny

import fxprune
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.samples import Samples
from fxprune.structures.channels.groups import Channels
from fxprune.structures.gated_layers import layers


def test_it_is_summed_over_all_layers_that_make_a_channel() -> None:
    model, graph, _, _ = small()
    found = scores(graph, L1())
    one, two, three = (layer.weight.detach() for layer in (model.one, model.two, model.three))
    for channel in range(4):
        expected = float(one[channel].abs().sum() + two[channel].abs().sum())
        assert found[STREAM][channel] == pytest.approx(expected, rel=1e-12)
    for channel in range(5):
        assert found[MIDDLE][channel] == pytest.approx(float(three[channel].abs().sum()), rel=1e-12)


def test_or_it_is_their_mean() -> None:
    _, graph, _, _ = small()
    assert scores(graph, L1("mean"))[STREAM] == pytest.approx(scores(graph, L1())[STREAM] / 2)
    assert scores(graph, L1("mean"))[MIDDLE] == pytest.approx(scores(graph, L1())[MIDDLE])


def test_it_is_what_channels_are_ranked_by_without_a_criterion() -> None:
    _, graph, _, _ = small()
    channels = Channels(graph)
    expected = np.zeros(len(channels.labels))
    for tensor, axis in channels.rows:
        others = [one for one in range(tensor.dim()) if one != axis]
        for one in channels.walk.records.of(tensor).axes[axis]:
            sizes = torch.linalg.vector_norm(tensor.detach(), 1, dim=others).double().numpy()
            np.add.at(expected, channels.class_of[one], sizes)
    expected[channels.stays] = 0
    assert L1().by_class(channels, Samples(())) == pytest.approx(expected)


def test_of_a_layer_it_is_that_of_all_kernels() -> None:
    graph = fxprune.insert_scales(tiny()).graph_module
    with L1().measuring(graph, layers(graph), Samples(())) as missed:
        found = {gate.path: missed(gate) for gate in layers(graph)}
    convs = [graph.get_parameter(f"block1.conv{index}.conv.weight") for index in (1, 2)]
    singles = [float(one.detach().double().abs().sum()) for one in convs]
    assert found["block1.conv1"] == pytest.approx(singles[0])
    assert found["block1.branch_scale"] == pytest.approx(sum(singles))
    assert torch.isfinite(torch.tensor(list(found.values()))).all()
