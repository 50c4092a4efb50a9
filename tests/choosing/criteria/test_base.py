"""What all criteria of channels share: which sites they take, and what they ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import STREAM, scores, site_of, small
from helpers import tiny

import fxprune
from fxprune.choosing.criteria.base import ChannelCriterion
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneValueError
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import layers


class ByLabel(ChannelCriterion):
    name = "by-label"
    asked = 0

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        self.asked += 1
        return np.arange(len(channels.labels), dtype=np.float64)


def test_a_graph_is_measured_once_and_read_in_the_order_of_its_sites() -> None:
    _, graph, _, _ = small()
    criterion = ByLabel()
    found = scores(graph, criterion)
    assert criterion.asked == 1
    assert np.array_equal(found[STREAM], site_of(graph, STREAM).group.free)


@pytest.mark.parametrize("name", ["bn-gamma", "fpgm", "taylor", "fisher", "apoz", "entropy"])
def test_layers_are_refused_by_those_of_channels_alone(name: str) -> None:
    graph = fxprune.insert_scales(tiny()).graph_module
    criterion = made(name, known_criteria(), "criterion")
    gate = layers(graph)[0]
    with (
        criterion.measuring(graph, [gate], Samples.of(graph)) as missed,
        pytest.raises(FxpruneValueError, match=rf"criterion {name} scores channels only, and {gate.path} is a "),
    ):
        missed(gate)


def test_channels_are_refused_by_those_of_layers_alone() -> None:
    _, graph, _, _ = small()
    with pytest.raises(FxpruneValueError, match="weight-norm scores convs and branches; of channels take l2"):
        scores(graph, made("weight-norm", known_criteria(), "criterion"))


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_labels_are_asked_for(name: str) -> None:
    _, graph, images, _ = small()
    criterion = made(name, known_criteria(), "criterion")
    for data in (None, [images]):
        with pytest.raises(FxpruneValueError, match=f"criterion {name} needs labels: give data= as pairs of inputs"):
            scores(graph, criterion, data)


def test_a_batch_without_labels_among_others_is_refused() -> None:
    _, graph, images, labels = small()
    with pytest.raises(FxpruneValueError, match="criterion taylor needs labels, and a batch of data has none"):
        scores(graph, made("taylor", known_criteria(), "criterion"), [(images, labels), images])


@pytest.mark.parametrize("name", ["taylor", "apoz", "entropy"])
def test_inputs_are_asked_for(name: str) -> None:
    _, graph, _, _ = small()
    with pytest.raises(FxpruneValueError, match=rf"criterion {name} needs inputs: give data= \(fxprune run --data\)"):
        scores(graph, made(name, known_criteria(), "criterion"), [])


def test_in_a_region_its_own_example_is_looked_at() -> None:
    class Opaque(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.body(x)
            return y * 2 if float(y.sum()) > 1e9 else y

    graph = fxprune.trace(Opaque().eval(), torch.randn(3, 4))
    images, labels = torch.randn(2, 4), torch.tensor([0, 1])
    sites = {site.region for site in fxprune.choosing.sites.channel_sites(graph)}
    assert sites
    assert "" not in sites
    assert all(len(one) for one in scores(graph, made("apoz", known_criteria(), "criterion")).values())
    expected = r"needs labels, and model\.body, which is opaque, has none: take l1 or half-gate"
    with pytest.raises(FxpruneValueError, match=expected):
        scores(graph, made("taylor", known_criteria(), "criterion"), [(images, labels)])
