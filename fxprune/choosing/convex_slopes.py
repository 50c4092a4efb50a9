"""What each more of something costs, where the cost of some amounts was measured: slopes that never fall."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def convex_slopes(counts: Sequence[int], values: Sequence[float]) -> NDArray[np.float64]:
    """Return what each of a number adds to those before it: the slopes of the lower convex hull of points.

    Args:
        counts: how many, ascending from 0.
        values: what so many cost together.

    Returns:
        Numbers that never fall, (counts[-1],).
    """
    hull: list[int] = []
    for new in range(len(counts)):
        while len(hull) > 1:
            before, last = hull[-2:]
            if _slope(counts, values, before, last) < _slope(counts, values, last, new):
                break
            hull.pop()
        hull.append(new)
    found = np.zeros(counts[-1])
    for first, last in pairwise(hull):
        found[counts[first] : counts[last]] = _slope(counts, values, first, last)
    return found


def _slope(counts: Sequence[int], values: Sequence[float], first: int, last: int) -> float:
    return (values[last] - values[first]) / (counts[last] - counts[first])
