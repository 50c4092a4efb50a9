"""The staircase of widths that a kernel has along one axis, found by measuring every kind of width.

oneDNN, 3x3 conv:       16 k + 1, ..., 16 (k + 1) channels take the same time            aligned 1, step 16
ONNX Runtime, 3x3 conv: so too, but with a number of channels that 4 does not divide     aligned 4, step 16,
                        it takes another way, half as fast again                         slower 1.5
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SWEEP = (64, 62, 61, 60, 57, 56, 52, 49, 48, 47, 45, 44, 40, 36, 33, 32, 31, 30, 28, 24, 22, 20, 17, 16)
"""The widths that tell: some of every residue, over three steps of 16."""
_ALIGNED, _STEPS = (1, 2, 4, 8), (2, 4, 8, 16, 32)
_SLOWER, _CLEARLY = 1.15, 6.0  # what counts as another way, and how much better stairs have to explain a sweep


class Stairs(NamedTuple):
    """How time follows width along an axis: width w costs what w rounded up to ``step`` does.

    What ``aligned`` does not divide costs ``slower`` times what that width would cost without stairs; less, below 1.
    """

    aligned: int = 1
    step: int = 1
    slower: float = 1.0

    def read_as(self, width: float) -> tuple[float, float]:
        """Return the width to look up, and the factor on its time."""
        if self.aligned > 1 and abs(width / self.aligned - round(width / self.aligned)) > 1e-6:
            return width, self.slower
        return (width if self.step == 1 else math.ceil(width / self.step - 1e-6) * self.step), 1.0


def stairs_of(sweeps: Sequence[Mapping[int, float]]) -> Stairs:
    """Return the one staircase that explains times by width best, for the fewest numbers (Schwarz's criterion).

    Args:
        sweeps: milliseconds by width, of one kind of op on inputs of several sizes.
    """
    plain = sum(_told(one, 1, 1)[0] for one in sweeps)
    best, found = plain - _CLEARLY * len(sweeps), Stairs()
    for aligned in _ALIGNED:
        for step in _STEPS:
            if step % aligned == 0 and step > 1:
                told = [_told(one, aligned, step) for one in sweeps]
                score = sum(one for one, _ in told)
                if score < best:
                    best, found = score, Stairs(aligned, step, float(np.median([slower for _, slower in told])))
    return found


def _told(milliseconds: Mapping[int, float], aligned: int, step: int) -> tuple[float, float]:
    """Return how badly stairs explain a sweep, for so many numbers, and how much slower is what is not aligned."""
    widths = np.array(sorted(milliseconds))
    times = np.array([milliseconds[one] for one in widths.tolist()])
    fast = widths % aligned == 0
    rounded = np.where(fast, -(-widths // step) * step, widths)
    fitted, lines = np.empty_like(times), {}
    for is_fast in np.unique(fast).tolist():
        mine = fast == is_fast
        lines[is_fast] = np.polyfit(rounded[mine], times[mine], 1)
        fitted[mine] = np.polyval(lines[is_fast], rounded[mine])
    error = float(np.mean((fitted / times - 1) ** 2)) + 1e-6
    score = len(widths) * math.log(error) + (2 * len(lines) + 2) * math.log(len(widths))
    if len(lines) == 1:
        return score, 1.0
    slower = [float(np.polyval(lines[is_fast], np.median(widths))) for is_fast in (False, True)]
    differs = max(slower) > _SLOWER * min(slower)
    return (score, slower[0] / slower[1]) if differs else (math.inf, 1.0)
