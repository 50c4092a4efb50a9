"""Blocks that are drawn: the control that every other choice is compared with (as MPDCompress draws its masks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fxprune.choosing.partitions.base import BlockSearch, Mass, shuffled, widths
from fxprune.ir.weight_blocks import Assignment


class RandomBlocks(BlockSearch):
    """Draws balanced blocks, whatever the weights are."""

    name: ClassVar[str] = "random"

    def find(self, masses: Sequence[Mass], blocks: int, rng: np.random.Generator) -> list[Assignment]:
        """See :meth:`BlockSearch.find`."""
        return [shuffled(width, blocks, rng) for width in widths(masses)]
