"""Second order: half the mean square of what a gate tells of each image."""

from __future__ import annotations

import pytest
from criterion_nets import WIDTHS, scores, slopes, small

from fxprune.choosing.criteria.fisher import Fisher


def test_it_is_half_the_mean_over_images_of_the_squared_slopes() -> None:
    model, graph, images, labels = small()
    found = scores(graph, Fisher(), [(images, labels)])
    for group, width in WIDTHS.items():
        for channel in range(width):
            expected = float(slopes(model, images, labels, group, channel).square().mean()) / 2
            assert found[group][channel] == pytest.approx(expected, rel=1e-5, abs=1e-12)
