import pytest
import torch

from fxprune.errors import FxpruneError
from fxprune.weights.channel_moments import ChannelMoments
from fxprune.weights.least_squares import Moments, Rows

GENERATOR = torch.Generator().manual_seed(0)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def test_what_is_linear_is_found_and_told() -> None:
    x, weight, bias = rows(2, 50, 6), rows(2, 3, 6), rows(2, 3)
    r = x @ weight.transpose(1, 2) + bias.unsqueeze(1)
    sums = Moments(2, 6, 3)
    sums.add(x[:, :20], r[:, :20], r[:, :20])
    sums.add(x[:, 20:], r[:, 20:], r[:, 20:])
    fit = sums.fit(0.0)
    torch.testing.assert_close(fit.weight, weight)
    torch.testing.assert_close(fit.bias, bias)
    assert fit.after <= 1e-12 * fit.before
    assert fit.rank == 6


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1])
def test_the_mean_squares_are_those_of_the_rows(ridge: float) -> None:
    x, r, y = rows(1, 40, 5) + 2, rows(1, 40, 3) - 1, rows(1, 40, 3) + 3
    sums = Moments(1, 5, 3)
    sums.add(x, r, y)
    fit = sums.fit(ridge)
    left = r - x @ fit.weight.transpose(1, 2) - fit.bias.unsqueeze(1)
    assert fit.before == pytest.approx(float(r.square().sum() / 40))
    assert fit.after == pytest.approx(float(left.square().sum() / 40))
    assert fit.total == pytest.approx(float(y.var(1, correction=0).sum()))


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_rows_solve_the_same_problem(ridge: float) -> None:
    x, r, y = rows(1, 12, 30), rows(1, 12, 3), rows(1, 12, 3)
    primal, dual = Moments(1, 30, 3), Rows()
    for one in (primal, dual):
        one.add(x[:, :5], r[:, :5], y[:, :5])
        one.add(x[:, 5:], r[:, 5:], y[:, 5:])
    found, other = primal.fit(ridge), dual.fit(ridge)
    torch.testing.assert_close(found.weight, other.weight)
    torch.testing.assert_close(found.bias, other.bias)
    torch.testing.assert_close(torch.tensor(found[2:5]), torch.tensor(other[2:5]), rtol=1e-6, atol=1e-10)
    assert found.rank == other.rank or ridge


def test_a_large_ridge_leaves_the_weights() -> None:
    sums = Moments(1, 4, 2)
    sums.add(rows(1, 30, 4), rows(1, 30, 2), rows(1, 30, 2))
    assert float(sums.fit(1e9).weight.abs().max()) < 1e-6


@pytest.mark.parametrize("sums", [Moments(1, 4, 2), Rows()])
def test_nan_is_refused(sums: Moments | Rows) -> None:
    sums.add(rows(1, 3, 4) * float("nan"), rows(1, 3, 2), rows(1, 3, 2))
    with pytest.raises(FxpruneError, match="NaN"):
        sums.fit(0.1)


def test_moments_of_channels() -> None:
    x = rows(7, 3, 4, 5) * 2 + 5
    moments = ChannelMoments(torch.zeros(3))
    moments.add(x[:3])
    moments.add(x[3:])
    torch.testing.assert_close(moments.mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(moments.variance, x.var((0, 2, 3)))


@pytest.mark.parametrize("ridge", [0.0, 1e-9, 1e-3])
def test_what_never_changes_but_for_rounding_is_no_direction(ridge: float) -> None:
    sums = Moments(1, 6, 2)
    x, r = rows(1, 1, 6).expand(1, 300, 6) * 1e3, rows(1, 1, 2).expand(1, 300, 2)
    for part in range(0, 300, 7):
        sums.add(x[:, part : part + 7], r[:, part : part + 7], r[:, part : part + 7])
    fit = sums.fit(ridge)
    assert not fit.weight.any()
    torch.testing.assert_close(fit.bias, r[:, 0])
