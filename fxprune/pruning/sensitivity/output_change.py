"""How far the outputs of a network move when something of it goes, a sample at a time.

    p = softmax(f(x)), q = softmax(f'(x))      missed = mean over x of 1/2 sum |p - q|

of f as it is and f' without something: the total variation, at most 1, which needs no labels. Where p is sure of its
choice it is how much of that q takes away: a soft count of the samples on which the first choice changes, with less
noise than the count. That it ranks removals is ours: the divergence of q from p, and the rise of the cross entropy,
grow without bound once the network is broken, and rank those removals by how sure it is of what is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from fxprune.ir.pytrees import tensors_in


def is_logits(outputs: Any) -> bool:
    """Say whether ``outputs`` are one tensor of logits, (N, classes)."""
    return (
        isinstance(outputs, torch.Tensor)
        and outputs.dim() == 2
        and outputs.shape[1] > 1
        and outputs.is_floating_point()
    )


def is_finite(outputs: Any) -> bool:
    """Say whether all numbers of ``outputs`` are finite."""
    return all(bool(one.isfinite().all()) for one in tensors_in(outputs) if one.is_floating_point())


class Reference:
    """What the whole network returns for a batch, and the labels, (N,), if they are looked at."""

    def __init__(self, outputs: Any, labels: torch.Tensor | None) -> None:
        self.outputs = outputs
        self.labels = labels
        self.is_logits = is_logits(outputs)

    @cached_property
    def shares(self) -> torch.Tensor:
        """The softmax of the logits, in float64."""
        shares: torch.Tensor = self.outputs.double().softmax(1)
        return shares

    @cached_property
    def losses(self) -> torch.Tensor:
        """The cross entropy of each sample."""
        assert self.labels is not None
        return functional.cross_entropy(self.outputs.double(), self.labels, reduction="none")


@dataclass
class Change:
    """What one removal does to outputs, over all samples that it was told of; sums, from which means are made.

    Of outputs that are no logits it knows how far they moved alone, and not a sample at a time. ``why`` says why it
    knows nothing; "" if it does.
    """

    images: int = 0
    batches: int = 0
    is_logits: bool = True
    why: str = ""
    has_labels: bool = False
    _missed: float = 0.0
    _squares: float = 0.0
    _gap: float = 0.0
    _size: float = 0.0
    _agreed: int = 0
    _loss: float = 0.0
    _right: int = 0
    _were_right: int = 0

    def add(self, before: Reference, outputs: Any, images: int) -> None:
        """Take note of what a batch comes to: of so many ``images``."""
        self.images += images
        self.batches += 1
        self.why = self.why or _why_not(before.outputs, outputs)
        if self.why:
            return
        gap, size = _squares(before.outputs, outputs)
        self._gap += gap
        self._size += size
        self.is_logits &= before.is_logits
        if not before.is_logits:
            missed = torch.tensor([math.sqrt(gap / size) if size else math.sqrt(gap)], dtype=torch.float64)
        else:
            missed = (before.shares - outputs.double().softmax(1)).abs().sum(1) / 2
            self._agreed += int((before.outputs.argmax(1) == outputs.argmax(1)).sum())
            self._of_labels(before, outputs)
        self._missed += float(missed.sum())
        self._squares += float(missed.square().sum())

    def _of_labels(self, before: Reference, outputs: torch.Tensor) -> None:
        if before.labels is not None:
            self.has_labels = True
            after = Reference(outputs, before.labels)
            self._loss += float((after.losses - before.losses).sum())
            self._right += int((outputs.argmax(1) == before.labels).sum())
            self._were_right += int((before.outputs.argmax(1) == before.labels).sum())

    @property
    def _count(self) -> int:
        return self.images if self.is_logits else self.batches

    @property
    def missed(self) -> float:
        """How much it is missed: in [0, 1] of logits, else how far outputs moved, the mean over batches."""
        return self._missed / max(self._count, 1) if not self.why else math.inf

    @property
    def error(self) -> float:
        """The standard error of :attr:`missed` over the samples, or batches; infinite for fewer than two."""
        if self._count < 2:
            return math.inf
        mean = self._missed / self._count
        variance = max(self._squares / self._count - mean**2, 0.0)
        return math.sqrt(variance / (self._count - 1))

    @property
    def moved(self) -> float:
        """The root mean square of how far outputs moved over that of the outputs."""
        return math.sqrt(self._gap / self._size) if self._size else math.sqrt(self._gap)

    @property
    def agreement(self) -> float | None:
        """The share of the samples whose first choice stays; None where outputs are no logits."""
        return self._agreed / max(self.images, 1) if self.is_logits else None

    @property
    def loss(self) -> float | None:
        """By how much the cross entropy rises; None without labels."""
        return self._loss / max(self.images, 1) if self.has_labels else None

    @property
    def top1(self) -> float | None:
        """By how much the share of the samples that are right rises; None without labels."""
        return (self._right - self._were_right) / max(self.images, 1) if self.has_labels else None

    @property
    def right(self) -> float | None:
        """The share of the samples that are right; None without labels."""
        return self._right / max(self.images, 1) if self.has_labels else None


def _why_not(before: Any, after: Any) -> str:
    """Return why nothing is known of what came out; "" if something is."""
    if not is_finite(after):
        return "without it outputs are not finite"
    shapes = [[one.shape for one in tensors_in(outputs)] for outputs in (before, after)]
    return "" if shapes[0] == shapes[1] else "without it outputs have another shape"


def _squares(before: Any, after: Any) -> tuple[float, float]:
    """Return the sums of squares of the difference, and of what was before; of numbers with fractions."""
    gap = size = 0.0
    for a, b in zip(tensors_in(before), tensors_in(after), strict=True):
        if a.is_floating_point():
            gap += float((a.double() - b.double()).square().sum())
            size += float(a.double().square().sum())
    return gap, size
