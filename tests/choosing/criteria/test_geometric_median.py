"""Distances from all other rows of a weight."""

from __future__ import annotations

import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small

from fxprune.choosing.criteria.geometric_median import GeometricMedian


def distances(weight: torch.Tensor, row: int) -> float:
    rows = weight.detach()
    return sum(float((rows[row] - other).square().sum() ** 0.5) for other in rows)


def test_it_is_the_sum_of_distances_from_all_rows_over_all_layers() -> None:
    model, graph, _, _ = small()
    found = scores(graph, GeometricMedian())
    for channel in range(4):
        expected = distances(model.one.weight, channel) + distances(model.two.weight, channel)
        assert found[STREAM][channel] == pytest.approx(expected, rel=1e-9)
    for channel in range(5):
        assert found[MIDDLE][channel] == pytest.approx(distances(model.three.weight, channel), rel=1e-9)


def test_long_rows_are_taken_in_parts() -> None:
    rows = torch.randn(3, 9000)
    expected = [sum(float((one - other).double().norm()) for other in rows) for one in rows]
    assert GeometricMedian().of_rows(rows).tolist() == pytest.approx(expected, rel=1e-6)
    assert GeometricMedian().of_rows(torch.ones(3, 5)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_row_in_the_middle_goes_first_though_it_is_the_largest() -> None:
    _, graph, _, _ = small()
    weight = graph.get_parameter("three.weight")
    with torch.no_grad():
        weight.copy_(10 + weight)
        weight[2] = 10 * torch.ones_like(weight[2]) + 0.01
    assert scores(graph, GeometricMedian())[MIDDLE].argmin() == 2
