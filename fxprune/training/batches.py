"""Which images each step of a training takes, and the loader that brings them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from fxprune.training.in_memory import InMemory


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of steps that ``count`` images make; :func:`step_batches` shuffles them into as many."""
    return max(1, count // batch_size)


def step_batches(count: int, batch_size: int, seed: int) -> list[list[int]]:
    """Return one epoch of ``count`` samples, shuffled by ``seed``, as the indices of each step's batch.

    All batches are full, unless there is only one.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[step * batch_size : (step + 1) * batch_size] for step in range(steps_per_epoch(count, batch_size))]


def in_order(count: int, batch_size: int) -> list[list[int]]:
    """Return the indices of ``count`` samples in batches, in their order; the last one may be smaller."""
    return [list(range(first, min(first + batch_size, count))) for first in range(0, count, batch_size)]


def loader(
    data: Dataset[Any],
    index_batches: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    device: torch.device | None = None,
) -> DataLoader[Any]:
    """Return a loader of (images, labels), a batch for each list of indices; samples that are None are left out.

    A batch of which no sample is left is None. Images that are kept in memory need no ``workers``. Others lie in
    pinned memory if ``device``, for which they are meant, is a GPU: their copy to it waits for nothing.
    """
    batches: Any = index_batches  # torch's types ask for a Sampler, its code for any iterable
    in_memory = isinstance(data.base if isinstance(data, Seeded) else data, InMemory)
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=0 if in_memory else workers,
        collate_fn=_collate,
        pin_memory=device is not None and device.type == "cuda" and not in_memory,
    )


def _collate(samples: Any) -> Any:
    if isinstance(samples, tuple):
        return samples  # a batch already, by InMemory
    readable = [sample for sample in samples if sample is not None]
    return default_collate(readable) if readable else None


class Seeded(Dataset[Any]):
    """A data set whose random augmentation is a function of the seed and the index alone.

    It does not depend on how many processes decode or train, nor on where a run was interrupted.
    """

    def __init__(self, base: Dataset[Any], seed: int) -> None:
        self.base, self.seed = base, seed

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]  # every map-style data set has a length

    def __getitem__(self, index: int) -> Any:
        state = torch.default_generator.get_state()
        try:
            torch.default_generator.manual_seed(zlib.crc32(f"{self.seed} {index}".encode()))  # it takes 32 bits
            return self.base[index]
        finally:
            torch.default_generator.set_state(state)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return the samples of a batch, or of images in memory the batch itself."""
        if isinstance(self.base, InMemory):
            return self.base.augmented(indices, self.seed)
        return [self[index] for index in indices]


def default_workers() -> int:
    """Return how many processes decode images: one for each core that this one may use, at most eight."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, usable or 1)
