"""The staircase of widths that a kernel has along one axis, found by measuring every kind of width.

oneDNN, 3x3 conv:       16 k + 1, ..., 16 (k + 1) channels take the same time            aligned 1, step 16
ONNX Runtime, 3x3 conv: so too, but with a number of channels that 4 does not divide     aligned 4, step 16,
                        it takes another way, half as fast again                         slower 1.5
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

SWEEP = (*range(64, 15, -3), *range(63, 16, -6), 62, 56, 48, 47, 40, 36, 32, 31, 24, 20, 16)
"""The widths that tell: some of every residue, over three steps of 16."""
_ALIGNED, _STEPS = (1, 2, 4, 8), (1, 2, 4, 8, 16, 32)


class Stairs(NamedTuple):
    """How time follows width along an axis: width w costs what w rounded up to ``step`` does.

    What ``aligned`` does not divide costs ``slower`` times what that width would cost without stairs.
    """

    aligned: int = 1
    step: int = 1
    slower: float = 1.0

    def read_as(self, width: float) -> tuple[float, float]:
        """Return the width to look up, and the factor on its time; a width between two whole ones is none of both."""
        if self.aligned > 1 and abs(width / self.aligned - round(width / self.aligned)) > 1e-6:
            return width, self.slower
        return math.ceil(width / self.step - 1e-6) * self.step, 1.0


def stairs_of(milliseconds: Mapping[int, float]) -> Stairs:
    """Return the staircase that explains times by width best, for the fewest numbers (Schwarz's criterion)."""
    widths = np.array(sorted(milliseconds))
    times = np.array([milliseconds[one] for one in widths.tolist()])
    best, found = math.inf, Stairs()
    for aligned in _ALIGNED:
        for step in _STEPS:
            if step % aligned:
                continue
            error, parameters, slower = _explained(widths, times, aligned, step)
            score = len(widths) * math.log(error + 1e-12) + parameters * math.log(len(widths))
            if score < best - 1e-9:
                best, found = score, Stairs(aligned, step, slower)
    return found


def _explained(widths: np.ndarray, times: np.ndarray, aligned: int, step: int) -> tuple[float, int, float]:
    """Return the mean squared relative error, how many numbers it takes, and how much slower what is not aligned is."""
    fast = widths % aligned == 0
    rounded = np.where(fast, -(-widths // step) * step, widths)
    fitted = np.empty_like(times)
    lines = {}
    for is_fast in (True, False):
        mine = fast == is_fast
        if mine.any():
            lines[is_fast] = np.polyfit(rounded[mine], times[mine], 1)
            fitted[mine] = np.polyval(lines[is_fast], rounded[mine])
    error = float(np.mean((fitted / times - 1) ** 2))
    extra = 1 if step > 1 else 0
    if len(lines) == 1:
        return error, 2 + extra, 1.0
    middle = float(np.median(widths))
    slower = float(np.polyval(lines[False], middle) / np.polyval(lines[True], middle))
    return (error, 5 + extra, slower) if slower > 1.05 else (math.inf, 5, 1.0)
