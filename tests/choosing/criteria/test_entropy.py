"""How differently channels respond to different images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import STREAM, scores, small

from fxprune.choosing.criteria.entropy import Entropy


@pytest.mark.parametrize("bins", [20, 5])
def test_it_is_that_of_the_histogram_of_means_over_images(bins: int) -> None:
    model, graph, images, _ = small(40)
    with torch.no_grad():
        y = model.first(images)
        means = torch.cat([y, model.second(y)], 2).mean((2, 3)).numpy()
    found = scores(graph, Entropy(bins), [images])[STREAM]
    for channel in range(4):
        shares = np.histogram(means[:, channel], bins)[0] / 40
        assert found[channel] == pytest.approx(-sum(one * np.log(one) for one in shares if one))


def test_what_responds_to_all_images_alike_goes_first() -> None:
    _, graph, images, _ = small()
    with torch.no_grad():
        for norm in ("norm_one", "norm_two"):
            graph.get_parameter(f"{norm}.weight")[1] = 0
    found = scores(graph, Entropy(), [images])[STREAM]
    assert found[1] == 0
    assert (np.delete(found, 1) > 0).all()


def test_what_is_not_finite_is_nan() -> None:
    _, graph, images, _ = small()
    images[2] = float("nan")
    assert np.isnan(scores(graph, Entropy(), [images])[STREAM]).all()
