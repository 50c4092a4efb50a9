"""The images of a search: a part to score and to measure norms on, and a part held out to choose on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import fx

from fxprune.choosing.fingerprint import digest_of
from fxprune.choosing.samples import Batch, Samples
from fxprune.errors import FxpruneValueError, FxpruneWarning, first_line

FEWEST, FEW = 32, 256
BATCH = 128


class Split(NamedTuple):
    """What criteria and norms look at, and what candidates are compared on; batches with labels (N,)."""

    seen: list[Batch]
    held_out: list[Batch]

    @property
    def digest(self) -> str:
        """What tells these images from others."""
        tensors = [one for batch in (*self.seen, *self.held_out) for one in (*batch.inputs, batch.labels)]
        return digest_of(tensors)


def split(
    graph_module: fx.GraphModule, data: Iterable[Any] | None, held_out: Iterable[Any] | None, seed: int
) -> Split:
    """Return the images of ``data``, shuffled: half of them are held out, unless ``held_out`` has others.

    Shuffled, because batches of one class each would give norms other statistics than all classes have together.

    Raises:
        FxpruneValueError: there are no labels, fewer than 32 images, or inputs of several shapes.

    Warns:
        FxpruneWarning: fewer than 256 images are held out, so that top-1 comes in large steps.
    """
    batches = _shuffled(_together(graph_module, data), seed)
    if held_out is not None:
        found = Split(_cut(batches), _cut(_together(graph_module, held_out)))
    else:
        half = batches.size // 2
        found = Split(_cut(_part(batches, slice(half, None))), _cut(_part(batches, slice(half))))
    count = sum(one.size for one in found.held_out)
    if count < FEW:
        warnings.warn(
            f"a blend is chosen by top-1 on {count} held-out images, in steps of {1 / count:.1%}: give more",
            FxpruneWarning,
            stacklevel=5,
        )
    return found


def _together(graph_module: fx.GraphModule, data: Iterable[Any] | None) -> Batch:
    """Return all images as one batch."""
    batches = list(Samples.of(graph_module, data))
    labels = [one.labels for one in batches if one.labels is not None]
    if not labels or len(labels) < len(batches) or any(one.dim() != 1 or one.is_floating_point() for one in labels):
        raise FxpruneValueError(
            "criterion blend needs labels: give data= as pairs of inputs and labels (N,) (fxprune run --data)"
        )
    count = sum(map(len, labels))
    if count < FEWEST:
        raise FxpruneValueError(f"criterion blend needs at least {FEWEST} images with labels; got {count}")
    try:
        inputs = tuple(torch.cat(parts) for parts in zip(*(one.inputs for one in batches), strict=True))
    except (RuntimeError, TypeError) as error:
        raise FxpruneValueError(f"criterion blend takes images of one shape: {first_line(error)}") from error
    return Batch(inputs, torch.cat(labels))


def _shuffled(batch: Batch, seed: int) -> Batch:
    return _part(batch, torch.randperm(batch.size, generator=torch.Generator().manual_seed(seed)))


def _part(batch: Batch, which: Any) -> Batch:
    assert batch.labels is not None
    return Batch(tuple(_fast(one[which]) for one in batch.inputs), batch.labels[which])


def _fast(images: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W) in the order in which convs are fastest; others as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def _cut(batch: Batch) -> list[Batch]:
    """Return a batch in equal parts, of 128 images or some more: none is too small for a norm."""
    count = max(1, batch.size // BATCH)
    return [_part(batch, rows) for rows in torch.arange(batch.size).tensor_split(count)]
