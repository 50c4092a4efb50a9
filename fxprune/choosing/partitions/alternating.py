"""One layer's features at a time are put where they gain most, the others as they are, until nothing gains (ours).

gain_l[u, b] = sum of M_{l-1}[u, j] with p_{l-1}(j) = b  +  sum of M_l[i, u] with p_{l+1}(i) = b

Units of one array do not meet each other: given the rest, the best balanced assignment is a linear one
(:mod:`fxprune.choosing.partitions.balanced`). Each step gains, so it ends, at an optimum that depends on the start:
of several drawn ones the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fxprune.choosing.partitions.balanced import assigned
from fxprune.choosing.partitions.base import BlockSearch, Mass, kept_mass, shuffled, widths
from fxprune.ir.weight_blocks import Assignment

_STARTS = 4
_SWEEPS = 50


class Alternating(BlockSearch):
    """Assigns the features of one layer after the other, again and again, from several drawn starts."""

    name: ClassVar[str] = "alternating"

    def find(self, masses: Sequence[Mass], blocks: int, rng: np.random.Generator) -> list[Assignment]:
        """See :meth:`BlockSearch.find`."""
        starts = [[shuffled(width, blocks, rng) for width in widths(masses)] for _ in range(_STARTS)]
        return max((settled(masses, blocks, one) for one in starts), key=lambda one: sum(kept_mass(masses, one)))


def settled(masses: Sequence[Mass], blocks: int, start: Sequence[Assignment]) -> list[Assignment]:
    """Return ``start`` with one array after the other assigned anew until nothing is gained."""
    found = list(start)
    for _ in range(_SWEEPS):
        is_settled = True
        for place in range(len(found)):
            better = assigned(gain_at(masses, blocks, found, place), found[place])
            is_settled &= np.array_equal(better, found[place])
            found[place] = better
        if is_settled:
            break
    return found


def gain_at(masses: Sequence[Mass], blocks: int, found: Sequence[Assignment], place: int) -> Mass:
    """Return what each unit of one array would keep in each block, the other arrays as they are; (units, blocks)."""
    gain = np.zeros((len(found[place]), blocks))
    if place > 0:
        gain += masses[place - 1] @ np.eye(blocks)[found[place - 1]]
    if place < len(masses):
        gain += masses[place].T @ np.eye(blocks)[found[place + 1]]
    return gain
