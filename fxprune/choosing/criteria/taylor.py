"""How much the loss would change without a channel, to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.criteria.losses import Loss, contributions_of_samples, cross_entropy
from fxprune.choosing.samples import Samples
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth


@dataclass
class Taylor(ChannelCriterion):
    """mean_n |sum a * d loss_n / d a|, over all activations a of a channel (Molchanov et al., arXiv 1611.06440).

    The paper takes the mean over the places of a feature map where this takes the sum, and divides by the norm of a
    layer, as ``normalize`` may. Ours: activations are those that the next layers read, summed over all of them, so
    the inner sum is the gradient of a gate of all that goes together. One sample is run at a time.

    Args:
        loss: takes outputs and the labels, on the network's device, of one sample; cross entropy by default.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[Needs] = "labels"
    loss: Loss = cross_entropy

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the means over samples of the absolute contributions."""
        found, count = np.zeros(len(channels.labels)), 0
        for one in contributions_of_samples(channels, samples, self.loss, self.name):
            found, count = found + np.abs(one), count + 1
        return found / count
