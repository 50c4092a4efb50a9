"""From what ops take alone to what whole networks take: t(net) = a + b (x + f y) + c n.

x is the sum over convs, products and all that no backend joins with others, y that over what it may, n the number of
launches. Least squares of relative errors, none of the numbers below 0; c, and f other than 1, only where networks
left out are told better with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_CLEARLY = 0.8  # of the error without it, that with another number is at most


class Sums(NamedTuple):
    """What a network's ops take alone, in milliseconds, and how many they are."""

    alone: float
    joined: float
    launches: int


class Fit(NamedTuple):
    """The numbers of t = a + b (x + f y) + c n, all in milliseconds but b and f."""

    a: float = 0.0
    b: float = 1.0
    c: float = 0.0
    f: float = 1.0

    def of(self, sums: Sums) -> float:
        """Return the milliseconds of a network."""
        return self.a + self.b * (sums.alone + self.f * sums.joined) + self.c * sums.launches


class FitError(NamedTuple):
    """How far predictions of networks that the fit has not seen are off, relative, and the spread of repeats."""

    median: float
    worst: float
    rank_correlation: float
    spread: float


def fitted(networks: Sequence[Sums], milliseconds: Sequence[float]) -> Fit:
    """Return the fit to networks: the simplest that explains those left out nearly as well as any."""
    rows, times = np.array(networks, dtype=float), np.array(milliseconds)
    best, error = _solved(rows, times, False, False), np.inf
    for splits, counts in ((False, False), (True, False), (False, True), (True, True)):
        if len(times) <= 2 + splits + counts:
            continue
        kept_out = [
            abs(
                _solved(np.delete(rows, one, 0), np.delete(times, one), splits, counts).of(Sums(*rows[one])) / time
                - 1
            )
            for one, time in enumerate(times)
        ]
        found = float(np.mean(kept_out))
        if found < _CLEARLY * error:
            best, error = _solved(rows, times, splits, counts), found
    return best


def _solved(rows: Numbers, times: Numbers, splits: bool, counts: bool) -> Fit:
    alone, joined, launches = rows.T
    columns = [
        np.ones_like(alone),
        *((alone, joined) if splits else (alone + joined,)),
        *((launches,) if counts else ()),
    ]
    numbers = iter(_not_negative(np.stack(columns, 1), times))
    a, b = next(numbers), next(numbers)
    f = next(numbers) / b if splits and b > 0 else 1.0
    return Fit(a, b, next(numbers) if counts else 0.0, f)


def _not_negative(columns: Numbers, times: Numbers) -> list[float]:
    """Return the factors, none below 0, of least squared relative errors: the best of all choices of columns."""
    scaled, best, found = columns / times[:, None], np.inf, np.zeros(columns.shape[1])
    for size in range(1, columns.shape[1] + 1):
        for chosen in combinations(range(columns.shape[1]), size):
            factors = np.linalg.lstsq(scaled[:, chosen], np.ones(len(times)), rcond=None)[0]
            error = float(np.sum((scaled[:, chosen] @ factors - 1) ** 2))
            if (factors >= 0).all() and error < best * (1 - 1e-9):
                best, found = error, np.zeros(columns.shape[1])
                found[list(chosen)] = factors
    return [float(one) for one in found]


def judged(predicted: Sequence[float], measured: Sequence[float], spread: float) -> FitError:
    """Return how far ``predicted`` is from ``measured``."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    ranks = np.stack([np.argsort(np.argsort(one)) for one in (predicted, measured)])
    correlation = float(np.asarray(np.corrcoef(ranks))[0, 1]) if len(errors) > 1 else 1.0
    return FitError(float(np.median(errors)), float(errors.max()), correlation, spread)


def as_json(value: Fit | FitError | None) -> Any:
    """Return the numbers by name."""
    return None if value is None else value._asdict()
