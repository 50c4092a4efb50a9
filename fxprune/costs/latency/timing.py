"""Several timers in turns: what each takes, and how far repeats are apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from fxprune.costs.latency.pace import Pace

Timer = Callable[[], float]
"""Runs something once, returns the milliseconds that it took."""


class Timing(NamedTuple):
    """What was measured.

    Attributes:
        milliseconds: the median of the repeats.
        spread: the distance between their quartiles over that.
        repeats: how many there were.
        pace: the milliseconds of a fixed work meanwhile (:mod:`fxprune.costs.latency.pace`); 0 where nobody looked.
    """

    milliseconds: float
    spread: float
    repeats: int
    pace: float = 0.0

    @classmethod
    def of(cls, repeats: Sequence[float], pace: float = 0.0) -> Timing:
        """Return what ``repeats``, in milliseconds, say."""
        low, middle, high = np.quantile(repeats, (0.25, 0.5, 0.75))
        return cls(float(middle), float((high - low) / middle), len(repeats), pace)


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


def in_turns(
    timers: Sequence[Timer], turns: Turns, until: float = float("inf"), pace: Pace | None = None
) -> list[Timing]:
    """Return what each of ``timers`` takes, called in turns: what slows the machine down slows all of them.

    Args:
        timers: what is timed.
        turns: how often.
        until: when to stop, by time.monotonic(), once each was called.
        pace: tells when the machine is not as usual: repeats of such times are left out, if there are others.
    """
    found = [_Repeats(pace) for _ in timers]
    for turn in range(turns.most):
        for timer, repeats in zip(timers, found, strict=True):
            enough = turn >= turns.least and repeats.count >= turns.least and repeats.told().spread <= turns.noisy
            if enough or (turn and time.monotonic() >= until):
                continue
            if pace is not None:
                pace.wait(until)
            if turns.warm:
                timer()
            repeats.add([timer() for _ in range(1 + turns.warm)])
    return [one.told() for one in found]


class _Repeats:
    """The repeats of one timer, each with the pace of the machine right behind it."""

    def __init__(self, pace: Pace | None) -> None:
        self._pace = pace
        self._all: list[tuple[float, float]] = []

    def add(self, milliseconds: Sequence[float]) -> None:
        pace = 0.0 if self._pace is None else self._pace.now()
        self._all += [(one, pace) for one in milliseconds]

    @property
    def _kept(self) -> list[tuple[float, float]]:
        """Those of a machine that was as usual; all, if there are none."""
        pace = self._pace
        return [one for one in self._all if pace is None or not pace.is_off(one[1])] or self._all

    @property
    def count(self) -> int:
        """How many count."""
        return len(self._kept)

    def told(self) -> Timing:
        """Return what they say."""
        kept = self._kept
        return Timing.of([one for one, _ in kept], median(pace for _, pace in kept))
