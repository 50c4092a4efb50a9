"""Which places of the axes of a traced node are left in what a node computes, once channels were taken out.

Plain data in ``node.meta``: by axis, in the numbering of the traced graph. What has lost nothing has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import fx

KEPT = "fxprune_kept_channels"
Places = NDArray[np.int64]


def note_kept(node: fx.Node, places: Mapping[int, Places]) -> None:
    """Note that of what ``node`` computed only these ``places`` of some axes are left, in the numbering until now."""
    before = kept_places(node)
    after = {axis: before[axis][one] if axis in before else one for axis, one in places.items()}
    if after:
        node.meta[KEPT] = {**before, **after}


def kept_places(node: fx.Node) -> Mapping[int, Places]:
    """Return which places of the traced node are left in ``node``, by axis; none of an axis that lost nothing."""
    found: Mapping[int, Places] = node.meta.get(KEPT, {})
    return found
