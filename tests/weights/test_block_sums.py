"""Least squares inside blocks: those of each block alone."""

from __future__ import annotations

import pytest
import torch

from fxprune.weights.block_sums import BlockSums
from fxprune.weights.least_squares import Moments, Rows

PLACES = [(torch.tensor([0, 3]), torch.tensor([1, 2, 4])), (torch.tensor([1, 2]), torch.tensor([0, 3]))]


@pytest.mark.parametrize("is_wide", [False, True])
def test_each_block_is_fitted_alone(is_wide: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.randn(1, 30, count, generator=generator, dtype=torch.float64) for count in (5, 4))
    parts = [Rows() if is_wide else Moments(1, len(columns), len(rows)) for rows, columns in PLACES]
    sums = BlockSums(PLACES, parts)
    sums.add(x[:, :10], r[:, :10], r[:, :10])
    sums.add(x[:, 10:], r[:, 10:], r[:, 10:])
    fit = sums.fit(0.0)
    assert sums.count == 30
    assert fit.weight.shape == (1, 4, 5)
    left = 0.0
    for rows, columns in PLACES:
        design = torch.cat([x[0][:, columns], torch.ones(30, 1, dtype=torch.float64)], 1)
        wanted = torch.linalg.lstsq(design, r[0][:, rows]).solution
        assert fit.weight[0][rows][:, columns] == pytest.approx(wanted[:-1].T.numpy())
        assert fit.bias[0][rows] == pytest.approx(wanted[-1].numpy())
        left += float((r[0][:, rows] - design @ wanted).square().sum() / 30)
    assert fit.after == pytest.approx(left)
    assert fit.before == pytest.approx(float(r.square().sum() / 30))
    across = torch.ones(4, 5, dtype=torch.bool)
    for rows, columns in PLACES:
        across[rows[:, None], columns] = False
    assert not fit.weight[0][across].any()
