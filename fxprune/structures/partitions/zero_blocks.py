"""Blocks that are in the weights of a chain, whoever made them: what no weight but zero joins.

W1 = | a . |    W2 = | b . |      two blocks: outputs 0 of both with input 0, outputs 1 with input 1
     | . c |         | . d |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.ir.weight_blocks import Assignment, WeightBlocks
from fxprune.structures.partitions.chains import Chain

_MOST = 16
_SPARSE = 0.25
"""Layers that have fewer zeros than this are not looked into, and blocks that leave out less are none."""


def blocks_in_zeros(chain: Chain) -> list[WeightBlocks] | None:
    """Return the blocks of all layers of a chain but for the last; None if all, or nearly all, is joined with all.

    More than 16 are put together, the largest with the smallest; what does not go through all layers is in the
    smallest.
    """
    split = chain.layers[:-1]
    if any(_zeros(one.weight.detach()) < _SPARSE for one in split):
        return None
    joined = [(one.weight.detach() != 0).cpu().numpy() for one in split]
    joined[0] = _by_unit(joined[0], chain.entry)
    found = _components(joined)
    if found is None:
        return None
    columns = [found[0][chain.entry], *found[1:-1]]
    blocks = [WeightBlocks(rows, read) for rows, read in zip(found[1:], columns, strict=True)]
    inside = sum(out * of for one in blocks for out, of in one.sizes)
    return blocks if inside <= (1 - _SPARSE) * sum(one.weight.numel() for one in split) else None


def _zeros(weight: torch.Tensor) -> float:
    return float((weight == 0).sum()) / weight.numel()


def _by_unit(joined: NDArray[np.bool_], units: Assignment) -> NDArray[np.bool_]:
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], np.arange(int(units.max()) + 1))
    found: NDArray[np.bool_] = np.logical_or.reduceat(joined[:, order], starts, axis=1)
    return found


def _components(joined: Sequence[NDArray[np.bool_]]) -> list[Assignment] | None:
    """Return the block of each unit of each array; None if there is but one block."""
    counts = [joined[0].shape[1], *map(len, joined)]
    found = [np.full(count, -1, dtype=np.int64) for count in counts]
    sizes: list[int] = []
    for place, row in enumerate(found):
        for unit in range(len(row)):
            if row[unit] < 0 and _has_any(joined, place, unit):
                sizes.append(_reach(joined, found, place, unit, len(sizes)))
    through = set.intersection(*(set(row[row >= 0].tolist()) for row in found))
    if len(through) < 2:
        return None
    numbers, packed = _packed({one: sizes[one] for one in sorted(through)})
    numbers = np.append(numbers, int(np.argmin(packed)))  # of -1, what nothing reaches
    return [numbers[np.where(np.isin(row, list(through)), row, -1)] for row in found]


def _has_any(joined: Sequence[NDArray[np.bool_]], place: int, unit: int) -> bool:
    before = place > 0 and bool(joined[place - 1][unit].any())
    return before or (place < len(joined) and bool(joined[place][:, unit].any()))


def _reach(joined: Sequence[NDArray[np.bool_]], found: list[Assignment], place: int, unit: int, number: int) -> int:
    """Give all that is joined with a unit ``number``; return how many units that are."""
    waiting = [(place, np.array([unit]))]
    found[place][unit] = number
    size = 1
    while waiting:
        at, units = waiting.pop()
        nearby = [(at - 1, joined[at - 1][units].any(0))] if at > 0 else []
        nearby += [(at + 1, joined[at][:, units].any(1))] if at < len(joined) else []
        for other, reached in nearby:
            new = np.flatnonzero(reached & (found[other] < 0))
            if len(new):
                found[other][new] = number
                size += len(new)
                waiting.append((other, new))
    return size


def _packed(sizes: Mapping[int, int]) -> tuple[Assignment, NDArray[np.int64]]:
    """Return the block of each component, of 16 at most, and how large each block is then."""
    count = min(len(sizes), _MOST)
    numbers, packed = np.zeros(max(sizes) + 1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for one in sorted(sizes, key=lambda one: -sizes[one]):
        numbers[one] = int(np.argmin(packed))
        packed[numbers[one]] += sizes[one]
    return numbers, packed
