"""The staircase of widths that a kernel has along one axis, found by measuring every kind of width.

oneDNN, 3x3 conv:       16 k + 1, ..., 16 (k + 1) channels take the same time            aligned 1, step 16
ONNX Runtime, 3x3 conv: so too, but a number of channels that 4 does not divide, and     aligned 4, step 16,
                        one below 16, take ways of their own, without steps              narrow 16
ONNX Runtime, 1x1 conv: so too along what is read, from some sizes of inputs on;        aligned 4, step 16
                        along what is made steps alone                                   aligned 1, step 16
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

SWEEP = (64, 62, 61, 60, 57, 56, 52, 49, 48, 47, 45, 44, 40, 36, 33, 32, 31, 30, 28, 24, 22, 20, 17, 16, 15, 8)
"""The widths that tell: some of every residue, over three steps of 16, and two that are narrow."""
Way = Literal["stepped", "unaligned", "narrow"]
_ALIGNED, _STEPS = (1, 2, 4, 8), (2, 4, 8, 16, 32)
_NARROW, _FAR = 16, 4  # of what is wider than so many times that, what narrow ones take is guessed from its steps
_APART, _CLEARLY = 1.15, 6.0  # what counts as another way, and how much better stairs have to explain a sweep


class Stairs(NamedTuple):
    """How time follows width along an axis: width w costs what w rounded up to ``step`` does.

    Where ``aligned`` is above 1, what it does not divide takes another way, and so does what is below ``narrow``, if
    that is not 0: their times are measured apart, and have no steps.
    """

    aligned: int = 1
    step: int = 1
    narrow: int = 0

    def way(self, width: float) -> Way:
        """Return the way that a width takes."""
        if width < self.narrow:
            return "narrow"
        if self.aligned == 1:
            return "stepped"
        return "stepped" if abs(width / self.aligned - round(width / self.aligned)) < 1e-6 else "unaligned"

    def ways(self, widths: Sequence[float]) -> tuple[Way, ...]:
        """Return the ways that layers of these widths take, or less wide: few of very wide ones end up narrow."""
        if max(widths) < self.narrow:
            return ("narrow",)
        has_unaligned = self.aligned > 1 and max(widths) > self.step
        wide: tuple[Way, ...] = ("stepped", "unaligned") if has_unaligned else ("stepped",)
        return (*wide, "narrow") if min(widths) <= _FAR * self.narrow else wide

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
    wide = [{width: time for width, time in one.items() if width >= _NARROW} for one in sweeps]
    plain = sum(_told(one, 1, 1).score for one in wide)
    best, found = plain - _CLEARLY * len(wide), Stairs()
    for aligned in _ALIGNED:
        for step in _STEPS:
            if step % aligned == 0 and step > 1:
                told = [_told(one, aligned, step) for one in wide]
                score = sum(one.score for one in told)
                if score < best and (aligned == 1 or max(one.apart for one in told) > _APART):
                    best, found = score, Stairs(aligned, step)
    if found.aligned > 1:
        return found._replace(narrow=found.step)
    off = [abs(math.log(ratio)) for one in sweeps for ratio in _narrow_ratios(one, found)]
    return found._replace(narrow=_NARROW) if off and np.median(off) > math.log(_APART) else found


def _narrow_ratios(milliseconds: Mapping[int, float], stairs: Stairs) -> list[float]:
    """Return what narrow widths take over what stairs, which all others have, say that they do."""
    wide = [width for width in milliseconds if width >= _NARROW]
    line = np.polyfit([stairs.read_as(width) for width in wide], [milliseconds[width] for width in wide], 1)
    told = {width: float(np.polyval(line, stairs.read_as(width))) for width in milliseconds if width < _NARROW}
    return [milliseconds[width] / time for width, time in told.items() if time > 0]


class _Told(NamedTuple):
    """How badly stairs explain a sweep, for so many numbers, and how many times longer one way takes."""

    score: float
    apart: float


def _told(milliseconds: Mapping[int, float], aligned: int, step: int) -> _Told:
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
        return _Told(score, 1.0)
    ways = [float(np.polyval(lines[is_fast], np.median(widths))) for is_fast in (False, True)]
    return _Told(score, max(ways) / min(ways) if min(ways) > 0 else math.inf)
