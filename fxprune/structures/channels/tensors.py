"""The labels of parameters and buffers: one record a tensor, with labels along each of its axes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fxprune.structures.channels.labels import Array, Labels, Reason

Vectors = tuple[Array, ...]
"""The labels along one axis, in as many layers as they have: what has one of them that goes, goes."""


def meet(labels: Labels, first: Vectors, second: Vectors, reason: Reason) -> Vectors:
    """Have the labels of two axes that are one axis go together, place by place; return them, none if all stay."""
    if len(first) != len(second):
        for one in (*first, *second):
            labels.pin(one, reason)
        return ()
    for one, other in zip(first, second, strict=True):
        labels.join(one, other, reason)
    return first


class Record:
    """One tensor: ``axes`` has the labels along each axis that something has met; () where that had none."""

    def __init__(self, tensor: torch.Tensor, labels: Labels) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.shape)
        self.axes: dict[int, Vectors] = {}
        self._labels = labels

    def meet(self, axis: int, vectors: Vectors, reason: Reason) -> Vectors:
        """Have the labels along ``axis`` go together with ``vectors``."""
        if axis in self.axes:
            return meet(self._labels, self.axes[axis], vectors, reason)
        self.axes[axis] = vectors
        return vectors

    def along(self, axis: int) -> Vectors:
        """Return the labels along ``axis``: new ones where nothing met it before; none if it has one element."""
        if axis not in self.axes:
            size = self.shape[axis]
            self.axes[axis] = (self._labels.fresh(size),) if size > 1 else ()
        return self.axes[axis]

    def pin(self, reason: Reason) -> None:
        """Have all of it stay."""
        for vectors in self.axes.values():
            for one in vectors:
                self._labels.pin(one, reason)


class Records:
    """The records of all tensors that a graph reads, by identity."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._of: dict[int, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._of.values())

    def make(self, tensor: torch.Tensor) -> Record:
        """Return a new record of ``tensor``."""
        return Record(tensor, self._labels)

    def of(self, tensor: torch.Tensor) -> Record:
        """Return the record of ``tensor``."""
        found = self._of.get(id(tensor))
        if found is None:
            found = self._of[id(tensor)] = self.make(tensor)
        return found
