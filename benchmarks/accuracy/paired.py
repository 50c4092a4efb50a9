"""Images held out of training to choose on, top-1 image by image, and differences on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, Subset

from fxprune.training.batches import in_order, loader
from fxprune.training.data import IMAGENET_MEAN, IMAGENET_STD, ImageData
from fxprune.training.evaluation import to_device
from fxprune.training.in_memory import InMemory

Correct = NDArray[np.bool_]
Reports = Mapping[int, Mapping[str, Any]]


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


def spread(images: Dataset[Any], count: int) -> Dataset[Any]:
    """Return ``count`` of the images, spread over all."""
    whole = len(images)  # type: ignore[arg-type]  # every map-style data set has a length
    return Subset(images, torch.linspace(0, whole - 1, count).long().tolist())


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
    batches = in_order(len(images), 256)  # type: ignore[arg-type]  # every map-style data set has a length
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


def row_of(done: Reports, ours: Reports, count: int) -> dict[str, Any]:
    """Return what a record tells of an arm: means over its seeds, what each came to, and "against" ours.

    Args:
        done: the reports of the arm by seed, with "correct", the test images that it has right, and "path".
        ours: those of the arm that it is compared with.
        count: how many test images there are.
    """
    reports = list(done.values())
    numbers = [name for name, value in reports[0].items() if isinstance(value, (int, float))]
    by_seed = {
        seed: {name: value for name, value in one.items() if name not in ("correct", "path")}
        for seed, one in done.items()
    }
    row = {"mean": {name: mean(one[name] for one in reports) for name in numbers}, "path": reports[0]["path"]}
    both = [seed for seed in done if seed in ours]
    if both:
        right = [[unpacked(arms[seed]["correct"], count) for seed in both] for arms in (done, ours)]
        against, error = difference(*right)
        singles = {seed: float(a.mean() - b.mean()) for seed, a, b in zip(both, *right, strict=True)}
        row["against"] = {"difference": against, "standard_error": error, "by_seed": singles}
    return {**row, "seeds": by_seed}
