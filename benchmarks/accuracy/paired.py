"""Images held out of training to choose on, top-1 image by image, and differences on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, Subset

from fxprune.training.batches import loader
from fxprune.training.data import IMAGENET_MEAN, IMAGENET_STD, ImageData
from fxprune.training.evaluation import to_device
from fxprune.training.in_memory import InMemory

Correct = NDArray[np.bool_]


def without_choosing(data: ImageData, count: int, seed: int) -> tuple[ImageData, Dataset[Any]]:
    """Return the data with ``count`` training images, drawn by ``seed``, held out; and the test images apart.

    So what a training tells of itself, and all that is chosen by it, knows no test image.
    """
    order = torch.randperm(data.train_count, generator=torch.Generator().manual_seed(seed)).tolist()
    choosing, rest = order[:count], sorted(order[count:])
    split = replace(
        data,
        train=_part(data.train, rest),
        plain_train=_part(data.plain_train, rest),
        held_out=_part(data.plain_train, choosing),
    )
    return split, data.held_out


def _part(images: Dataset[Any], indices: Sequence[int]) -> Dataset[Any]:
    if isinstance(images, InMemory):
        return InMemory(images.images[indices], images.labels[indices], IMAGENET_MEAN, IMAGENET_STD)
    return Subset(images, indices)


def correct(model: nn.Module, images: Dataset[Any], *, workers: int = 0) -> Correct:
    """Return for each image, (N,), whether ``model``, in eval mode then and on the CPU, has its class."""
    found, labels = answers(model, images, workers=workers)
    return (found == labels).numpy()


def answers(model: nn.Module, images: Dataset[Any], *, workers: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes that ``model``, in eval mode then and on the CPU, gives images, and their own; (N,) each."""
    indices = range(len(images))  # type: ignore[arg-type]  # every map-style data set has a length
    batches = [list(indices[start : start + 256]) for start in range(0, len(indices), 256)]
    model.eval()
    found, known = [], []
    with torch.no_grad():
        for batch, labels in loader(images, batches, workers=workers):
            found.append(model(to_device(batch, torch.device("cpu"))).argmax(1))
            known.append(labels)
    return torch.cat(found), torch.cat(known)


def packed(which: Correct) -> str:
    """Return the flags as hexadecimal digits, four a digit."""
    return np.packbits(which).tobytes().hex()


def unpacked(digits: str, count: int) -> Correct:
    """Return the ``count`` flags that :func:`packed` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count).astype(np.bool_)


def difference(ours: Sequence[Correct], others: Sequence[Correct]) -> tuple[float, float]:
    """Return the difference of two top-1, the mean over seeds, and its standard error over the images.

    Args:
        ours: for each seed, for each image, (N,), whether it is right.
        others: likewise, of the same seeds and images.
    """
    by_image = np.mean([one.astype(float) - other for one, other in zip(ours, others, strict=True)], axis=0)
    return float(by_image.mean()), float(by_image.std(ddof=1) / math.sqrt(len(by_image)))
