"""Scores that are drawn: what every other criterion has to beat."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.choosing.criteria.base import ChannelCriterion, Needs
from fxprune.choosing.samples import Samples
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import Gate


@dataclass
class Random(ChannelCriterion):
    """A number in [0, 1), drawn; the same for the same ``seed`` and graph."""

    name: ClassVar[str] = "random"
    needs: ClassVar[Needs] = "weights"
    seed: int = 0

    def by_class(self, channels: Channels, samples: Samples) -> Worth:
        """Return a number drawn for each class."""
        return np.random.default_rng(self.seed).random(len(channels.labels))

    def of_layer(self, layer: Gate) -> float:
        """Return a number drawn for a layer, by its path."""
        return float(np.random.default_rng([self.seed, zlib.crc32(layer.path.encode())]).random())
