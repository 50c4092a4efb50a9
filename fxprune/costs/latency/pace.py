"""How fast the machine is just now: a small fixed work, timed between what is measured.

Cores of shared machines, and of hot ones, change their speed for seconds, or for parts of one, by as much as two, and
no clock of the process tells. What was timed while the fixed work was faster or slower than usual is left out, and
measuring waits for a usual time. (On such a machine repeats of the medians of one network were 5% apart, 3% with
this; those of minima 18%: lucky moments are rare, and last no whole network.)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

import torch

from fxprune.costs.latency.conditions import Conditions

OFF = 1.15
"""So many times longer or shorter than usual the fixed work takes where the machine is off."""
_SIZE, _RUNS = 256, 3
_KNOWN, _FROM_BEFORE = 2000, 200
_PATIENCE, _NAP = 20.0, 0.02
_FIRST_LOOK = 1.0


class Pace:
    """Tells how long the fixed work takes.

    Args:
        work: runs once, and returns the milliseconds that it took.
        patience: seconds that all waiting for a usual time may take.
    """

    def __init__(self, work: Callable[[], float], patience: float = _PATIENCE) -> None:
        self._work = work
        self._known: deque[float] = deque(maxlen=_KNOWN)
        self._usual: float | None = None  # until there is more to know
        self._patience = patience

    def note(self, usual: float) -> None:
        """Take over what it usually took before on this machine; 0 if nobody looked."""
        self._add([usual] * _FROM_BEFORE if usual else [])

    @property
    def usual(self) -> float:
        """The milliseconds that the fixed work usually takes; 0 if nobody looked."""
        if self._usual is None:
            self._usual = median(self._known) if self._known else 0.0
        return self._usual

    def now(self) -> float:
        """Return the milliseconds that the fixed work takes now."""
        found = median(self._work() for _ in range(_RUNS))
        self._add([found])
        return found

    def _add(self, milliseconds: Sequence[float]) -> None:
        self._known.extend(milliseconds)
        self._usual = None

    def is_off(self, milliseconds: float) -> bool:
        """Say whether the machine was off when the fixed work took so long; 0 if nobody looked."""
        usual = self.usual
        return bool(milliseconds and usual) and abs(math.log(milliseconds / usual)) > math.log(OFF)

    def as_usual(self, milliseconds: float, pace: float) -> float:
        """Return what took so long while the fixed work took ``pace`` at the usual one, if the machine was off."""
        return milliseconds * self.usual / pace if self.is_off(pace) else milliseconds

    def look(self, until: float = math.inf) -> None:
        """Find out how fast it is, for a second."""
        until = min(until, time.monotonic() + _FIRST_LOOK)
        while time.monotonic() < until:
            self.now()

    def wait(self, until: float = math.inf) -> None:
        """Return when the machine is as usual, when waiting has taken long enough in all, or at ``until``."""
        start = time.monotonic()
        until = min(until, start + self._patience)
        while self.is_off(self.now()) and time.monotonic() < until:
            time.sleep(_NAP)
            self._patience -= _NAP


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
