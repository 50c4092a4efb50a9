"""Spectral co-clustering (Dhillon, 2001; scikit-learn's), balanced afterwards.

A layer's outputs are clustered together with all that they meet: its inputs, and the outputs of the next layer. Every
second array is so; :func:`fxprune.choosing.partitions.alternating.settled` makes blocks of equal size of the clusters
(the balancing is ours).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fxprune.choosing.partitions.alternating import gain_at, settled
from fxprune.choosing.partitions.balanced import exchanged, missing
from fxprune.choosing.partitions.base import BlockSearch, Mass, shuffled, widths
from fxprune.ir.weight_blocks import Assignment

_FLOOR = 1e-9


class Spectral(BlockSearch):
    """Clusters rows and columns of the masses by their singular vectors."""

    name: ClassVar[str] = "spectral"

    def find(self, masses: Sequence[Mass], blocks: int, rng: np.random.Generator) -> list[Assignment]:
        """See :meth:`BlockSearch.find`; raises FxpruneError if scikit-learn is missing."""
        found = [shuffled(width, blocks, rng) for width in widths(masses)]
        for layer in range(0, len(masses), 2):
            _cluster(masses, layer, blocks, found, rng)
        return settled(masses, blocks, found)


def _cluster(
    masses: Sequence[Mass], layer: int, blocks: int, found: list[Assignment], rng: np.random.Generator
) -> None:
    """Put the outputs of one layer, its inputs and the outputs of the next into blocks that follow their clusters."""
    parts = [masses[layer], *(one.T for one in masses[layer + 1 : layer + 2])]
    rows, columns = _co_clustered(np.concatenate(parts, 1), blocks, rng)
    ends = np.split(columns, [parts[0].shape[1]])
    for place, clusters in ((layer, ends[0]), (layer + 1, rows), (layer + 2, ends[1])):
        if place < len(found) and not (place == layer and layer):
            found[place] = exchanged(np.eye(blocks)[clusters], found[place])
    if layer:  # its inputs are in blocks already: its clusters are numbered after these
        found[layer + 1] = exchanged(gain_at(masses, blocks, found, layer + 1), found[layer + 1])


def _co_clustered(mass: Mass, blocks: int, rng: np.random.Generator) -> tuple[Assignment, Assignment]:
    """Return the cluster of each row and of each column."""
    try:
        from sklearn.cluster import SpectralCoclustering
    except ImportError as error:
        raise missing() from error
    positive = np.maximum(mass, 0.0)
    positive += _FLOOR * max(float(positive.mean()), 1e-300)  # it divides by the sums of rows and columns
    model = SpectralCoclustering(blocks, random_state=int(rng.integers(1 << 31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct points than clusters: what is empty is filled afterwards
        model.fit(positive)
    return model.row_labels_.astype(np.int64), model.column_labels_.astype(np.int64)
