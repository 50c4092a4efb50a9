"""What channels are worth by the rows of the weights that make them, over all that goes together."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fxprune.choosing.criteria.base import Aggregate, ChannelCriterion, Needs
from fxprune.choosing.samples import Samples
from fxprune.ir.arguments import require_kind
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.running import Worth
from fxprune.weights.slicing import at_once


@dataclass
class RowCriterion(ChannelCriterion):
    """One that looks at rows: at each channel of each weight that makes it, depthwise ones too; no norms or biases.

    Args:
        aggregate: the "sum" over all rows of a class, or their "mean"; that is ours, papers know one layer's.
    """

    needs: ClassVar[Needs] = "weights"
    one_by_one: ClassVar[bool] = True
    """Whether a row's worth is its own alone: then few are looked at at a time, as many as a cache holds."""
    aggregate: Aggregate = "sum"

    def __post_init__(self) -> None:
        require_kind(self.aggregate, Aggregate, type(self).__name__, "aggregate")

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return what all rows of a class are worth; 0 where it has none, or it stays."""
        found = Slices(channels)
        for tensor, axis in channels.rows:
            vectors = channels.walk.records.of(tensor).axes[axis]
            if channels.all_stay(vectors):
                continue
            step = at_once(tensor, axis) if self.one_by_one else tensor.shape[axis]
            parts = (one.movedim(axis, 0).flatten(1) for one in torch.split(tensor.detach(), step, axis))
            sizes = torch.cat([self.of_rows(one) for one in parts]).double().cpu().numpy()
            for labels in vectors:
                found.add(labels, sizes)
        return found.put_together(self.aggregate)

    @abstractmethod
    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what each row of one weight is worth: (rows, entries) -> (rows,)."""


class Slices:
    """Numbers for slices of parameters, put together by class."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._sums = np.zeros(len(channels.labels))
        self.counts = np.zeros(len(channels.labels))

    def add(self, labels: Array, sizes: Worth) -> None:
        """Add a number for each of ``labels``."""
        classes = self._channels.class_of[labels]
        np.add.at(self._sums, classes, sizes)
        np.add.at(self.counts, classes, 1)

    def put_together(self, aggregate: Aggregate) -> Worth:
        """Return the sums or the means, by class; 0 where there is no slice."""
        return self._sums / np.maximum(self.counts, 1) if aggregate == "mean" else self._sums
