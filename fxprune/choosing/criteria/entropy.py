"""How differently a channel responds to different images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.choosing.criteria.activations import look
from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.samples import Samples
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Worth


@dataclass
class Entropy(ChannelCriterion):
    """-sum_i p_i log p_i, p the histogram over images of a channel's mean activation (Luo, Wu, arXiv 1706.05791).

    A channel whose mean is the same for all images has 0 and goes first. Ours: activations are those that the next
    layers read, the mean is over all of them, and the bins of equal width divide the channel's own range. It takes
    many more images than bins to tell channels apart. One sample is run at a time.

    Args:
        bins: how many there are.
    """

    name: ClassVar[str] = "entropy"
    needs: ClassVar[Needs] = "inputs"
    bins: int = 20

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the entropies, in nats; 0 of what nobody reads."""
        size = len(channels.labels)
        means: list[Worth] = []
        sums, counts = np.zeros(size), np.zeros(size)

        def note(read: Read, value: torch.Tensor) -> None:
            read.add(sums, value)
            read.add(counts, torch.ones_like(value))

        def after() -> None:
            means.append(sums / np.maximum(counts, 1))
            sums.fill(0)
            counts.fill(0)

        look(channels, samples.alone(), note, after)
        return _entropies(np.stack(means), self.bins)


def _entropies(means: NDArray[np.float64], bins: int) -> Worth:
    """Return the entropy of each column's histogram: (samples, classes) -> (classes,); NaN of what is not finite."""
    finite = np.isfinite(means).all(0)
    known = np.where(finite, means, 0)
    low, high = known.min(0), known.max(0)
    places = np.floor((known - low) / np.where(high > low, high - low, 1) * bins).astype(np.int64).clip(0, bins - 1)
    found = np.zeros(means.shape[1])
    for one in range(bins):
        share = (places == one).mean(0)
        found -= share * np.log(np.where(share > 0, share, 1))
    return np.where(finite, found, np.nan)
