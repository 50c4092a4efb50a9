"""Which places of the axes of a traced node are left in what a node computes, once channels were taken out.

Plain data in ``node.meta``: by axis, in the numbering of the traced graph, with how many places there were. What has
lost nothing has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx

KEPT = "fxprune_kept_channels"
Places = NDArray[np.int64]


class KeptPlaces(NamedTuple):
    """The places of an axis that are left, of so many."""

    places: Places
    of: int


def note_kept(node: fx.Node, left: Mapping[int, KeptPlaces]) -> None:
    """Note that of what ``node`` computed only these places of some axes are left, in the numbering until now."""
    before = kept_places(node)
    after = {
        axis: KeptPlaces(before[axis].places[one.places], before[axis].of) if axis in before else one
        for axis, one in left.items()
    }
    if after:
        node.meta[KEPT] = {**before, **after}


def kept_places(node: fx.Node) -> Mapping[int, KeptPlaces]:
    """Return which places of the traced node are left in ``node``, by axis; none of an axis that lost nothing."""
    found: Mapping[int, KeptPlaces] = node.meta.get(KEPT, {})
    return found
