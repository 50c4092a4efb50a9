"""Samples in a random order, in batches of one size: what was seen of the first few is true of the others.

Folders of images come a class after the other; what is measured until it is known well enough must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fxprune.choosing.samples import Batch, Samples
from fxprune.ir.pytrees import map_tensors, tensors_in


def drawn(samples: Samples, count: int, seed: int = 0) -> list[Batch]:
    """Return the first ``count`` samples, each a batch of one, in an order that is drawn by ``seed``."""
    found: list[Batch] = []
    for batch in samples:
        found += batch.alone()
        if len(found) >= count:
            break
    found = found[:count]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [found[index] for index in order]


def batches_of(singles: Sequence[Batch], size: int) -> Iterator[Batch]:
    """Yield samples that are alone in batches of at most ``size``; those of one batch have one shape."""
    together: list[Batch] = []
    for one in singles:
        if together and (len(together) == size or _shapes(one) != _shapes(together[0])):
            yield _joined(together)
            together = []
        together.append(one)
    if together:
        yield _joined(together)


def _shapes(one: Batch) -> tuple[object, ...]:
    return (*(tensor.shape for tensor in tensors_in(one.inputs)), one.labels is None)


def _joined(singles: Sequence[Batch]) -> Batch:
    """Return one batch; what is not a sample's own, a table say, is that of the first."""
    columns = iter(list(zip(*(tensors_in(one.inputs) for one in singles), strict=True)))

    def join(tensor: torch.Tensor) -> torch.Tensor:
        column = next(columns)
        return torch.cat(column) if tensor.dim() and len(tensor) == 1 else tensor

    inputs = map_tensors(singles[0].inputs, join)
    labels = [one.labels for one in singles if one.labels is not None]
    return Batch(inputs, torch.cat(labels) if labels else None)
