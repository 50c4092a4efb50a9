"""The damage of a channel that is halved where it is read; of layers see tests/pruning/test_steering.py."""

from __future__ import annotations

import pytest
import torch
from criterion_nets import WIDTHS, scaled, scores, site_of, small

from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Samples


def test_it_is_the_change_of_outputs_over_their_size() -> None:
    model, graph, images, _ = small()
    found = scores(graph, HalfGate(), [images])
    with torch.no_grad():
        outputs = model(images)
        for group, width in WIDTHS.items():
            for channel in range(width):
                with scaled(model, group, channel, 0.5):
                    gap = (model(images) - outputs).square().mean().sqrt() / outputs.square().mean().sqrt()
                assert found[group][channel] == pytest.approx(float(gap), rel=1e-9, abs=1e-12)


def test_each_run_is_told_beforehand() -> None:
    _, graph, images, _ = small()
    sites = [site_of(graph, name) for name in WIDTHS]
    told: list[tuple[int, int]] = []
    criterion = made("damage", known_criteria(), "criterion")
    assert isinstance(criterion, HalfGate)
    criterion.comparing = lambda done, of: told.append((done, of))
    with criterion.measuring(graph, sites, Samples.of(graph, [images])) as missed:
        for site in sites:
            missed(site)
    assert told == [(done, 9) for done in range(9)]
