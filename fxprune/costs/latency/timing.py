"""Several timers in turns: what each takes, and how far repeats are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Timer = Callable[[], float]
"""Runs something once, returns the milliseconds that it took."""
_QUANTILE = 0.25


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


class Turns(NamedTuple):
    """How often timers are called.

    Attributes:
        least: times each is called in any case, the time allowing: once otherwise.
        most: times those are whose spread stays above ``noisy``.
        warm: whether a turn is three calls, of which the first is not counted: kernels that were made for shapes are
            kept for some hundred shapes only (oneDNN's are), and what ran in between may have pushed them out.
        noisy: above this spread it is measured again.
    """

    least: int
    most: int
    warm: bool = True
    noisy: float = 0.02


def in_turns(timers: Sequence[Timer], turns: Turns, until: float = float("inf")) -> list[Timing]:
    """Return what each of ``timers`` takes, called in turns: what slows the machine down slows all of them.

    Args:
        timers: what is timed.
        turns: how often.
        until: when to stop, by time.monotonic(), once each was called.
    """
    found: list[list[float]] = [[] for _ in timers]
    for turn in range(turns.most):
        for timer, repeats in zip(timers, found, strict=True):
            enough = turn >= turns.least and Timing.of(repeats).spread <= turns.noisy
            if enough or (turn and time.monotonic() >= until):
                continue
            if turns.warm:
                timer()
            repeats += [timer() for _ in range(1 + turns.warm)]
    return [Timing.of(repeats) for repeats in found]
