"""Which block each output and each input of a linear layer is in, as a node that calls one keeps it.

rows    = [0, 0, 1, 1]     weight = | w w . . |      what is in two blocks is zero: that is its mask
columns = [0, 0, 1, 1]              | w w . . |
                                    | . . w w |
                                    | . . w w |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

BLOCKS = "fxprune_weight_blocks"
Assignment = NDArray[np.int64]
"""The number of the block of each unit."""


@dataclass(frozen=True, eq=False)
class WeightBlocks:
    """The block of each row (out,) and of each column (in,) of a weight, counted from 0.

    ``has_rest`` says whether something of what lay across is added to what the layer computes.
    """

    rows: Assignment
    columns: Assignment
    has_rest: bool = False

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return int(max(self.rows.max(), self.columns.max())) + 1

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weight."""
        return len(self.rows), len(self.columns)

    def mask(self) -> torch.Tensor:
        """Return what of the weight lies in a block; (out, in), bool."""
        return torch.from_numpy(self.rows[:, None] == self.columns[None])

    def places(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rows and the columns of one block after the other."""
        for block in range(self.count):
            rows, columns = (np.flatnonzero(one == block) for one in (self.rows, self.columns))
            yield torch.from_numpy(rows), torch.from_numpy(columns)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The outputs and inputs of each block."""
        rows, columns = (np.bincount(one, minlength=self.count).tolist() for one in (self.rows, self.columns))
        return list(zip(rows, columns, strict=True))

    def __str__(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]} -> {told_sizes(self.sizes)}"


def told_sizes(sizes: list[tuple[int, int]]) -> str:
    """Return the sizes of blocks in words: "4 blocks of 1024x1024"."""
    shown = [f"{out}x{of}" for out, of in dict.fromkeys(sizes)]
    return f"{len(sizes)} blocks of {' and '.join(shown[:3])}{' and others' * (len(shown) > 3)}"


def note_blocks(node: fx.Node, blocks: WeightBlocks) -> None:
    """Note the blocks of the layer that ``node`` calls."""
    node.meta[BLOCKS] = blocks


def move_blocks(node: fx.Node, places: Mapping[int, torch.Tensor]) -> None:
    """Note that of the weight's rows (axis 0) and columns (1) these are left, in this order; of no entry all are."""
    found: WeightBlocks | None = node.meta.get(BLOCKS)
    if found is not None and places:
        rows, columns = (
            side[places[axis].numpy()] if axis in places else side
            for axis, side in enumerate((found.rows, found.columns))
        )
        note_blocks(node, replace(found, rows=rows, columns=columns))


def forget_blocks(node: fx.Node) -> None:
    """Have ``node`` be a layer without blocks."""
    node.meta.pop(BLOCKS, None)


def blocks_of(node: fx.Node, weight: torch.Tensor) -> WeightBlocks | None:
    """Return the blocks of the layer that ``node`` calls; None if there are none, or of another weight."""
    found: WeightBlocks | None = node.meta.get(BLOCKS)
    return found if found is not None and found.shape == tuple(weight.shape) else None
