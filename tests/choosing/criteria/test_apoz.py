"""The share of what is not zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small

from fxprune.choosing.criteria.apoz import Apoz
from fxprune.errors import FxpruneValueError


def test_it_is_the_share_over_all_images_places_and_readers() -> None:
    model, graph, images, _ = small()
    with torch.no_grad():
        y = model.first(images)
        z = model.second(y)
        pooled = model.third(z)
    found = scores(graph, Apoz(), [images[:4], images[4:]])
    both = torch.cat([y, z])
    np.testing.assert_allclose(found[STREAM], (both > 0).double().mean((0, 2, 3)).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found[MIDDLE], (pooled > 0).double().mean(0).numpy(), rtol=1e-12)
    assert 0 < found[STREAM].min() < 1


def test_images_that_the_graph_does_not_take_are_refused_in_a_line() -> None:
    _, graph, _, _ = small()
    with pytest.raises(FxpruneValueError, match="the graph does not take a batch of data: "):
        scores(graph, Apoz(), [torch.randn(2, 3, 6, 6).double()])
