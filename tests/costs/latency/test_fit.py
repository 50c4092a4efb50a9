"""The fit from ops to networks."""

from __future__ import annotations

import pytest

from fxprune.costs.latency.fit import Fit, Sums, fitted, judged

_NETWORKS = [
    Sums(x, y, n) for x, y, n in zip(range(1, 9), (3, 1, 4, 1, 5, 9, 2, 6), (20, 8, 17, 3, 9, 30, 5, 11), strict=True)
]


@pytest.mark.parametrize("expected", [Fit(0.5, 0.9), Fit(0.0, 1.1), Fit(0.3, 0.8, 0.05), Fit(0.2, 0.8, 0.0, 0.0)])
def test_numbers_are_found_again(expected: Fit) -> None:
    found = fitted(_NETWORKS, [expected.of(one) for one in _NETWORKS])
    assert found == pytest.approx(expected, abs=1e-6)


def test_no_number_is_below_zero() -> None:
    found = fitted(_NETWORKS, [max(0.1, 2 * (one.alone + one.joined) - 3) for one in _NETWORKS])
    assert min(found) >= 0


def test_networks_that_are_all_the_same() -> None:
    found = fitted([Sums(2.0, 1.0, 3)] * 8, [3.3] * 8)
    assert found.of(Sums(2.0, 1.0, 3)) == pytest.approx(3.3)


def test_errors_and_ranks() -> None:
    error = judged([1.1, 2.0, 3.0], [1.0, 2.0, 4.0], 0.02)
    assert error == pytest.approx((0.1, 0.25, 1.0, 0.02))
    assert judged([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], 0.0).rank_correlation == pytest.approx(-1)
