"""The scales of the batch norms that channels pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small
from torch import nn

import fxprune
from fxprune import passes
from fxprune.choosing.criteria.bn_gamma import BatchNormGamma
from fxprune.errors import FxpruneValueError


def test_it_is_summed_over_all_norms_of_a_channel() -> None:
    model, graph, _, _ = small()
    found = scores(graph, BatchNormGamma())[STREAM]
    expected = model.norm_one.weight.detach().abs() + model.norm_two.weight.detach().abs()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(scores(graph, BatchNormGamma("mean"))[STREAM], expected.numpy() / 2, rtol=1e-12)


def test_what_has_no_norm_stays() -> None:
    _, graph, _, _ = small()
    assert np.isinf(scores(graph, BatchNormGamma())[MIDDLE]).all()


def test_a_graph_without_norms_is_refused() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(2, 3))
    with pytest.raises(FxpruneValueError, match="bn-gamma needs batch norms with weights, and the graph has none"):
        scores(graph, BatchNormGamma())
    folded = passes.FoldBatchNorm()(small()[1]).graph_module
    with pytest.raises(FxpruneValueError, match="not folded yet"):
        scores(folded, BatchNormGamma())
