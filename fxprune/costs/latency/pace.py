"""How fast the machine is just now: a small fixed work, timed between what is measured.

Cores of shared machines, and of hot ones, are slow for seconds at a time, by as much as two, and no clock of the
process tells. What was timed while the fixed work was slow is left out, and measuring waits for a better time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from fxprune.costs.latency.conditions import Conditions

SLOW = 1.1
"""So much longer than at its fastest the fixed work takes where the machine is slow."""
_SIZE, _RUNS = 160, 3
_PATIENCE, _NAP = 60.0, 0.02
_FIRST_LOOK = 1.0


class Pace:
    """Tells how long the fixed work takes.

    Args:
        work: runs once, and returns the milliseconds that it took.
        best: the least that it took before on this machine.
        patience: seconds that all waiting for a fast machine may take.

    Attributes:
        best: the least that it took.
    """

    def __init__(self, work: Callable[[], float], best: float = math.inf, patience: float = _PATIENCE) -> None:
        self._work = work
        self.best = best
        self._patience = patience

    def now(self) -> float:
        """Return the milliseconds that the fixed work takes now."""
        found = min(self._work() for _ in range(_RUNS))
        self.best = min(self.best, found)
        return found

    def is_slow(self, milliseconds: float) -> bool:
        """Say whether the machine was slow when the fixed work took so long; 0 if nobody looked."""
        return milliseconds > SLOW * self.best

    def look(self, until: float = math.inf) -> None:
        """Find out how fast it is at its best, for a second."""
        until = min(until, time.monotonic() + _FIRST_LOOK)
        while time.monotonic() < until:
            self.now()

    def wait(self, until: float = math.inf) -> None:
        """Return when the machine is fast, when waiting has taken long enough in all, or at ``until``."""
        start = time.monotonic()
        until = min(until, start + self._patience)
        while self.is_slow(self.now()) and time.monotonic() < until:
            time.sleep(_NAP)
        self._patience -= time.monotonic() - start


def pace_of(conditions: Conditions) -> Pace | None:
    """Return what tells the pace of a CPU, on as many threads; None for other devices."""
    if conditions.device != "cpu":
        return None
    matrix = torch.ones(_SIZE, _SIZE)

    def work() -> float:
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        return (time.perf_counter() - start) * 1e3

    return Pace(work)
