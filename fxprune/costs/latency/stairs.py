"""The staircase of widths that a kernel has along one axis, found by measuring every kind of width.

oneDNN, 3x3 conv:       16 k + 1, ..., 16 (k + 1) channels take the same time            aligned 1, step 16
ONNX Runtime, 3x3 conv: so too, but a number of channels that 4 does not divide, and     aligned 4, step 16
                        one below 16, take ways of their own, without steps
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

SWEEP = (64, 62, 61, 60, 57, 56, 52, 49, 48, 47, 45, 44, 40, 36, 33, 32, 31, 30, 28, 24, 22, 20, 17, 16)
"""The widths that tell: some of every residue, over three steps of 16."""
Way = Literal["stepped", "unaligned", "narrow"]
_ALIGNED, _STEPS = (1, 2, 4, 8), (2, 4, 8, 16, 32)
_FAR = 4  # steps; of what is wider, what narrow ones take is guessed from its steps
_APART, _CLEARLY = 1.15, 6.0  # what counts as another way, and how much better stairs have to explain a sweep


class Stairs(NamedTuple):
    """How time follows width along an axis: width w costs what w rounded up to ``step`` does.

    Where ``aligned`` is above 1, what it does not divide takes another way, and so does what is narrower than a step:
    their times are measured apart, and have no steps.
    """

    aligned: int = 1
    step: int = 1

    def way(self, width: float) -> Way:
        """Return the way that a width takes."""
        if self.aligned == 1:
            return "stepped"
        if width < self.step:
            return "narrow"
        return "stepped" if abs(width / self.aligned - round(width / self.aligned)) < 1e-6 else "unaligned"

    def ways(self, widest: int) -> tuple[Way, ...]:
        """Return the ways that widths up to the widest take: few of very wide layers end up narrow."""
        if self.aligned == 1:
            return ("stepped",)
        if widest < self.step:
            return ("narrow",)
        wide: tuple[Way, ...] = ("stepped", "unaligned") if widest > self.step else ("stepped",)
        return (*wide, "narrow") if widest <= _FAR * self.step else wide

    def read_as(self, width: float) -> float:
        """Return the width that costs as much, and is one that times are known of or lie between."""
        if self.step == 1 or self.way(width) != "stepped":
            return width
        return math.ceil(width / self.step - 1e-6) * self.step


def stairs_of(sweeps: Sequence[Mapping[int, float]]) -> Stairs:
    """Return the one staircase that explains times by width best, for the fewest numbers (Schwarz's criterion).

    Args:
        sweeps: milliseconds by width, of one kind of op on inputs of several sizes.
    """
    plain = sum(_told(one, 1, 1) for one in sweeps)
    best, found = plain - _CLEARLY * len(sweeps), Stairs()
    for aligned in _ALIGNED:
        for step in _STEPS:
            if step % aligned == 0 and step > 1:
                score = sum(_told(one, aligned, step) for one in sweeps)
                if score < best:
                    best, found = score, Stairs(aligned, step)
    return found


def _told(milliseconds: Mapping[int, float], aligned: int, step: int) -> float:
    """Return how badly stairs explain a sweep, for so many numbers; not at all, if all widths cost alike."""
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
        return score
    ways = [float(np.polyval(lines[is_fast], np.median(widths))) for is_fast in (False, True)]
    return score if max(ways) > _APART * min(ways) else math.inf
