"""Means and covariances of what the readers of channels read, column by column of their weights.

y = layer(x)  ->  rows(y) = patches(x) @ matrix(W)^T + b:    mean and covariance of patches(x) over images and places

A reader of too many columns is taken by channels, all taps together: cov(x) over places, the same for every tap and
nothing between taps; patches as GRAIL has them, and ours here. So is a linear layer behind a flatten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import fx

from fxprune.choosing.criteria.activations import look
from fxprune.choosing.samples import Batch
from fxprune.facts.input_statistics import Geometry
from fxprune.facts.patch_products import patch_sums
from fxprune.facts.shapes import shape
from fxprune.gates.base import ungated_call
from fxprune.ops.op import WEIGHTED
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.running import Read
from fxprune.structures.channels.walk import Reader

MOST_COLUMNS = 4608
"""Of more columns, 512 channels of 3 x 3, a reader is taken by channels: the covariance of these takes 170 MB."""
_PART = 1 << 26


class ReaderMoments:
    """What one reader reads, summed up in float64; its covariance takes 8 groups columns^2 bytes.

    Args:
        channels: of the graph.
        reader: a conv, a transposed one or a linear layer, see :func:`can_be_measured`.
        most_columns: of more it is taken by channels.

    Attributes:
        classes: the classes of each column of :attr:`matrix`, an array for each layer of labels.
        taps: how many columns of the weight are one column here: 1, or those of a channel.
        count: how many places were seen.
    """

    def __init__(self, channels: Channels, reader: Reader, most_columns: int = MOST_COLUMNS) -> None:
        assert reader.weight is not None
        self.reader = reader
        self.geometry = geometry = Geometry(ungated_call(reader.node), reader.weight)
        of_channels = [channels.class_of[one][: geometry.channels] for one in reader.vectors]
        kernel = math.prod(geometry.kernel)
        self.taps = 1
        if geometry.columns > most_columns:
            self.taps = kernel if geometry.kind != "linear" else _in_a_row(of_channels)
        self.classes = tuple(one[:: self.taps] if kernel == 1 else one for one in of_channels)
        if self.taps == 1:
            self.classes = tuple(np.repeat(one, kernel) for one in self.classes)
        self.count = 0
        self._size = geometry.groups, geometry.columns // self.taps

    @property
    def bytes(self) -> int:
        """How many bytes its covariance takes, from the first batch on."""
        return 8 * self._size[0] * self._size[1] ** 2

    @cached_property
    def sum(self) -> torch.Tensor:
        """The sums of what is read, (groups, columns)."""
        return self._zeros(self._size)

    @cached_property
    def products(self) -> torch.Tensor:
        """The sums of products, (groups, columns, columns)."""
        return self._zeros((*self._size, self._size[1]))

    def _zeros(self, size: Sequence[int]) -> torch.Tensor:
        assert self.reader.weight is not None
        return torch.zeros(*size, dtype=torch.float64, device=self.reader.weight.device)

    def add(self, x: torch.Tensor) -> None:
        """Add what it reads of a batch."""
        out = shape(self.reader.node) or (1,)
        places = math.prod(out) // max(1, out[0] * self.geometry.rows * self.geometry.groups)
        step = max(1, _PART // (8 * self.geometry.groups * self.geometry.columns * max(1, places)))
        is_batched = len(out) > len(self.geometry.kernel) + 1
        for part in torch.split(x.detach(), step) if is_batched else (x.detach(),):
            if self.taps == 1:
                first, second, places = patch_sums(self.geometry, part)
            else:
                rows = self._by_channel(part).double()
                first, second, places = rows.sum(1), rows.mT @ rows, rows.shape[1]
            self.count += places
            self.sum += first
            self.products += second

    def _by_channel(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is read as (groups, samples, channels)."""
        if self.geometry.kind == "linear":
            return x.reshape(-1, x.shape[-1] // self.taps, self.taps).mT.reshape(1, -1, x.shape[-1] // self.taps)
        axis = x.dim() - 1 - len(self.geometry.kernel)
        by_group = x.movedim(axis, -1).reshape(-1, self.geometry.groups, self.geometry.channels)
        return by_group.movedim(1, 0)

    @property
    def mean(self) -> torch.Tensor:
        """(groups, columns)."""
        return self.sum / max(self.count, 1)

    @property
    def second(self) -> torch.Tensor:
        """Mean squares, (groups, columns)."""
        return self.products.diagonal(dim1=1, dim2=2) / max(self.count, 1)

    @property
    def covariance(self) -> torch.Tensor:
        """(groups, columns, columns)."""
        mean = self.mean
        return torch.baddbmm(
            self.products, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / max(self.count, 1), alpha=-1
        )

    @property
    def matrix(self) -> torch.Tensor:
        """The weight as (groups, rows taps, columns), float64."""
        assert self.reader.weight is not None
        return self.as_matrix(self.reader.weight)

    def as_matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight of these groups and taps, maybe of fewer channels, as :attr:`matrix`."""
        found = Geometry(ungated_call(self.reader.node), weight).matrix(weight.detach().double())
        if self.taps == 1:
            return found
        return torch.unflatten(found, 2, (-1, self.taps)).movedim(3, 1).flatten(1, 2)

    def as_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`as_matrix` made the matrix of, as the matrix of :class:`Geometry`."""
        return matrix if self.taps == 1 else torch.unflatten(matrix, 1, (self.taps, -1)).movedim(1, 3).flatten(2)


def can_be_measured(reader: Reader) -> bool:
    """Say whether a reader has columns of weights that are known."""
    return reader.weight is not None and ungated_call(reader.node).kind in WEIGHTED


def _in_a_row(classes: Sequence[Array]) -> int:
    """Return how many columns in a row have the same classes, the same number everywhere."""
    changes = np.flatnonzero(np.any([one[1:] != one[:-1] for one in classes], axis=0)) + 1
    return math.gcd(len(classes[0]), *changes.tolist())


def measure(
    channels: Channels, batches: Iterable[Batch], moments: Mapping[tuple[fx.Node, int], ReaderMoments]
) -> None:
    """Add to ``moments``, by node and axis of what is read, what is read of all batches."""

    def note(read: Read, value: torch.Tensor) -> None:
        one = moments.get((read.node, read.axis))
        if one is not None:
            one.add(value)

    with torch.no_grad():
        look(channels, batches, note)


def in_memory(sizes: Sequence[int], memory: int) -> Iterator[range]:
    """Yield ranges of what fits into ``memory`` together, one thing at least."""
    first = total = 0
    for place, size in enumerate(sizes):
        if total + size > memory and place > first:
            yield range(first, place)
            first, total = place, 0
        total += size
    if first < len(sizes):
        yield range(first, len(sizes))
