"""The L2 norm of all rows of a class."""

from __future__ import annotations

import pytest
from criterion_nets import MIDDLE, STREAM, scores, small
from helpers import tiny

import fxprune
from fxprune.choosing.criteria.l2 import L2
from fxprune.choosing.criteria.weight_norm import WeightNorm
from fxprune.choosing.samples import Samples
from fxprune.structures.gated_layers import layers


def test_norms_are_summed_over_all_layers_that_make_a_channel() -> None:
    model, graph, _, _ = small()
    found = scores(graph, L2())
    one, two, three = (layer.weight.detach() for layer in (model.one, model.two, model.three))
    for channel in range(4):
        expected = float(one[channel].square().sum() ** 0.5 + two[channel].square().sum() ** 0.5)
        assert found[STREAM][channel] == pytest.approx(expected, rel=1e-12)
    for channel in range(5):
        assert found[MIDDLE][channel] == pytest.approx(float(three[channel].square().sum() ** 0.5), rel=1e-12)


def test_of_a_layer_it_is_the_norm_of_its_weights() -> None:
    graph = fxprune.insert_scales(tiny()).graph_module
    sites = layers(graph)
    with L2().measuring(graph, sites, Samples(())) as one, WeightNorm().measuring(graph, sites, Samples(())) as other:
        assert [one(site) for site in sites] == [other(site) for site in sites]
