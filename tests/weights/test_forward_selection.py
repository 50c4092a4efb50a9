"""Blocks of columns in the order of what they explain, against least squares by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fxprune.weights.forward_selection import LinearMap, lost_behind


def samples(columns: int, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a covariance and the mean squares."""
    x = torch.randn(groups, 40 + 2 * columns, columns).double() @ torch.randn(groups, columns, columns).double()
    covariance = x.mT @ x / x.shape[1]
    return covariance, covariance.diagonal(dim1=1, dim2=2)


def missed(covariance: torch.Tensor, weight: torch.Tensor, kept: list[int]) -> float:
    """Return the share of the variance that least squares on some columns misses."""
    total = left = 0.0
    for s, w in zip(covariance, weight, strict=True):
        fit = torch.linalg.lstsq(s[kept][:, kept], s[kept] @ w.T).solution
        total += float(((w @ s) * w).sum())
        left += float(((w @ s) * w).sum() - ((fit.T @ s[kept][:, kept]) * fit.T).sum())
    return left / total


@pytest.mark.parametrize(("rows", "groups", "given"), [(3, 1, 0), (30, 1, 2), (2, 3, 0), (4, 2, 1)])
def test_a_gain_is_what_the_loss_falls_by(rows: int, groups: int, given: int) -> None:
    torch.manual_seed(0)
    blocks = [
        np.arange(3 * one, 3 * one + size) for one, size in enumerate([3, 1, 2, 3, 3] * 4)
    ]  # more than one turn
    columns = 3 * len(blocks) + given
    spare = [3 + 1, 3 + 2, 6 + 2]
    covariance, second = samples(columns, groups)
    weight = torch.randn(groups, rows, columns).double()
    kept = [one for one in range(columns) if not any(one in block for block in blocks)]
    assert set(spare) <= set(kept)
    one = LinearMap(covariance, second, weight, blocks)
    left = list(range(len(blocks)))
    while left:
        gains = one.gains(left)
        before = missed(covariance, weight, kept)
        after = [missed(covariance, weight, kept + blocks[each].tolist()) for each in left]
        assert gains == pytest.approx(before - np.array(after), abs=1e-8)
        best = left.pop(int(np.argmax(gains)))
        one.add(best)
        kept += blocks[best].tolist()


def test_what_is_lost_behind_is_what_least_squares_misses() -> None:
    torch.manual_seed(0)
    blocks = [np.arange(2 * one, 2 * one + 2) for one in range(6)]
    (covariance, second), weight = samples(12), torch.randn(1, 4, 12).double()
    lost = lost_behind([LinearMap(covariance, second, weight, blocks)], np.zeros(6))
    order = np.argsort(-lost)
    for count in range(1, 6):
        kept = np.concatenate([blocks[one] for one in order[:count]]).tolist()
        assert lost[order[count]] == pytest.approx(missed(covariance, weight, kept), abs=1e-8)
    assert lost.max() == pytest.approx(1)


def test_maps_and_what_blocks_have_besides_are_summed() -> None:
    covariance = torch.eye(3).double().unsqueeze(0)
    second = torch.ones(1, 3).double()
    blocks = [np.array([one]) for one in range(3)]
    weights = [torch.tensor([[[1.0, 2.0, 3.0]]]).double(), torch.tensor([[[3.0, 0.0, 4.0]]]).double()]
    lost = lost_behind([LinearMap(covariance, second, one, blocks) for one in weights], np.array([0, 0.5, 0]))
    gains = np.array([1 / 14 + 9 / 25, 4 / 14 + 0.5, 9 / 14 + 16 / 25])
    assert lost == pytest.approx([gains[0], gains[0] + gains[1], gains.sum()])


def test_copies_constants_and_what_nobody_reads_come_last() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 5).double()
    x[:, 1], x[:, 3] = x[:, 4], 7.0
    weight = torch.randn(1, 3, 5).double()
    weight[..., 2] = 0
    second = x.square().mean(0, keepdim=True)
    covariance = torch.cov(x.T, correction=0).unsqueeze(0)
    lost = lost_behind([LinearMap(covariance, second, weight, [np.array([one]) for one in range(5)])], np.zeros(5))
    assert lost[[2, 3]] == pytest.approx(0, abs=1e-9)
    assert min(lost[1], lost[4]) == pytest.approx(0, abs=1e-9)
    assert lost[0] > 1e-3 < max(lost[1], lost[4])


def test_a_map_that_computes_nothing_says_nothing() -> None:
    covariance, second = samples(4)
    nothing = LinearMap(covariance, second, torch.zeros(1, 2, 4).double(), [np.array([0, 1]), np.array([2, 3])])
    assert lost_behind([nothing], np.zeros(2)).tolist() == [0, 0]
