"""Several timers in turns: what each takes, and how far repeats are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Timer = Callable[[], float]
"""Runs something once, returns the milliseconds that it took."""
_QUANTILE, _COUNTED = 0.25, 2


class Timing(NamedTuple):
    """What was measured.

    Attributes:
        milliseconds: the lower quartile of the repeats: what else the machine does only ever adds to a time.
        spread: the distance between the quartiles of the repeats over that.
        repeats: how many there were.
    """

    milliseconds: float
    spread: float
    repeats: int

    @classmethod
    def of(cls, repeats: Sequence[float]) -> Timing:
        """Return what ``repeats``, in milliseconds, say."""
        low, high = np.quantile(repeats, (_QUANTILE, 1 - _QUANTILE))
        return cls(float(low), float((high - low) / low), len(repeats))


def in_turns(
    timers: Sequence[Timer],
    *,
    turns: int = 8,
    most: int = 8,
    noisy: float = 0.02,
    until: float = float("inf"),
) -> list[Timing]:
    """Return what each of ``timers`` takes, called in turns: what slows the machine down slows all of them.

    In each turn it is called three times, the first is not counted: kernels that were made for shapes are kept for
    some hundred shapes only (oneDNN's are), and what ran in between may have pushed them out.

    Args:
        timers: what is timed; each has run before.
        turns: how often each is called at least, the time allowing: twice in any case.
        most: up to so often, those alone whose spread is above ``noisy``.
        noisy: above this spread it is measured again.
        until: when to stop, by time.monotonic().
    """
    found: list[list[float]] = [[] for _ in timers]
    for turn in range(most):
        for timer, repeats in zip(timers, found, strict=True):
            enough = turn >= turns and Timing.of(repeats).spread <= noisy
            if not enough and (turn < 2 or time.monotonic() < until):
                timer()
                repeats += [timer() for _ in range(_COUNTED)]
    return [Timing.of(repeats) for repeats in found]
