"""How often a channel is not zero where it is read."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from fxprune.choosing.criteria.activations import look
from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.samples import Samples
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Worth


class Apoz(ChannelCriterion):
    """1 - APoZ: the share of a channel's activations that are not zero (Hu et al., arXiv 1607.03250).

    APoZ is the average percentage of zeros, and what has most of them goes first. The paper looks behind a ReLU, this
    at what the next layers read, over all of them, which is ours.
    """

    name: ClassVar[str] = "apoz"
    needs: ClassVar[Needs] = "inputs"

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return the shares; 0 of what nobody reads."""
        active, counts = np.zeros(len(channels.labels)), np.zeros(len(channels.labels))

        def note(read: Read, value: torch.Tensor) -> None:
            read.add(active, torch.where(value.isnan(), value, (value != 0).to(value.dtype)))
            read.add(counts, torch.ones_like(value))

        look(channels, samples, note)
        return active / np.maximum(counts, 1)
