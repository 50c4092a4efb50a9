"""What a search for blocks is: features of a chain of linear layers are shared out so that little weight lies across.

max  sum over layers l, i, j with p_{l+1}(i) = p_l(j) of M_l[i, j]      p_l: the block of each feature, balanced

M_l[i, j] is what output i of layer l would miss of input j. p_{l+1} is of the outputs of layer l and of the inputs of
layer l + 1 at once: nothing crosses from one block into another until the last layer, which adds all blocks up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fxprune.ir.weight_blocks import Assignment

Mass = NDArray[np.float64]
"""What each output (row) would miss of each unit of inputs (column), of one layer."""


class BlockSearch(ABC):
    """Shares the features of a chain out to blocks of equal size."""

    name: ClassVar[str]

    @abstractmethod
    def find(self, masses: Sequence[Mass], blocks: int, rng: np.random.Generator) -> list[Assignment]:
        """Return the block of each unit that enters, and of each output of each layer, one array more than layers.

        Args:
            masses: of the layers of a chain but for the last, (outputs, units that enter it).
            blocks: how many there are to be; no more than any layer has units.
            rng: what draws, if anything does.

        All blocks of one array are of equal size, or differ by one: those counted first are the larger ones.
        """


def sizes(units: int, blocks: int) -> list[int]:
    """Return how many of ``units`` each block has: they differ by one at most."""
    each, rest = divmod(units, blocks)
    return [each + (block < rest) for block in range(blocks)]


def shuffled(units: int, blocks: int, rng: np.random.Generator) -> Assignment:
    """Return balanced blocks that are drawn."""
    found: Assignment = rng.permutation(np.repeat(np.arange(blocks), sizes(units, blocks)))
    return found


def widths(masses: Sequence[Mass]) -> list[int]:
    """Return how many units there are to share out, of each array."""
    return [masses[0].shape[1], *(len(one) for one in masses)]


def kept_mass(masses: Sequence[Mass], found: Sequence[Assignment]) -> list[float]:
    """Return how much of each layer's mass lies in a block."""
    return [
        float(mass[rows[:, None] == columns[None]].sum())
        for mass, columns, rows in zip(masses, found, found[1:], strict=False)
    ]
