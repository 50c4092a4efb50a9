"""Units put into blocks of given sizes so that most is gained: exactly where there are few, else by exchanges.

max  sum over i of gain[i, p(i)]      as many i with p(i) = b as block b is large
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from fxprune.choosing.partitions.base import Mass
from fxprune.errors import FxpruneError
from fxprune.ir.weight_blocks import Assignment

_EXACT = 1024
"""Of so many units the assignment is solved exactly, in under a second; it takes the cube of their number."""
_SAME = 1e-12


def assigned(gain: Mass, now: Assignment) -> Assignment:
    """Return ``now`` with its blocks' sizes and at least its gain: the most of all where there are few units.

    Args:
        gain: of each unit in each block, (units, blocks).
        now: the block of each unit.

    Raises FxpruneError if scipy is missing.
    """
    if len(gain) > _EXACT:
        return exchanged(gain, now)
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise missing() from error
    places = np.sort(now)
    units, chosen = linear_sum_assignment(gain[:, places], maximize=True)
    found = np.empty_like(now)
    found[units] = places[chosen]
    return found if _total(gain, found) > _total(gain, now) + _SAME * np.abs(gain).sum() else now


def exchanged(gain: Mass, now: Assignment) -> Assignment:
    """Return ``now`` with units swapped between two blocks at a time, the best for these two, until no swap gains."""
    found = now.copy()
    least = _SAME * np.abs(gain).sum()
    pairs = list(combinations(range(gain.shape[1]), 2))
    while True:
        before = _total(gain, found)
        for one, other in pairs:
            either = np.flatnonzero((found == one) | (found == other))
            prefers = gain[either, one] - gain[either, other]
            most = np.argsort(-prefers, kind="stable")[: np.count_nonzero(found == one)]
            found[either] = other
            found[either[most]] = one
        if _total(gain, found) <= before + least:
            return found


def _total(gain: Mass, found: Assignment) -> float:
    return float(gain[np.arange(len(found)), found].sum())


def missing() -> FxpruneError:
    """Return what is raised where a package is missing."""
    return FxpruneError("choosing blocks needs scipy and scikit-learn; pip install 'fxprune[partition]'")
