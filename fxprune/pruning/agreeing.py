"""One choice for several processes that train together: that of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import distributed

from fxprune.choosing.remaining import Site
from fxprune.gates.gate import ScaledLayer
from fxprune.structures.channel_chunk import Chunk


def agreed(site: Site, layers: Mapping[str, ScaledLayer]) -> tuple[str, Sequence[int] | None]:
    """Return the path of the first process's site, with the places of its channels; None of a layer.

    ``layers`` are those with a shortcut of their own, by path: they take over the units that the first one measured.
    """
    units = {path: float(layer.unit("input_rms")) for path, layer in layers.items()}
    known: list[Any] = [site.path, site.places if isinstance(site, Chunk) else None, units]
    distributed.broadcast_object_list(known, src=0)
    path, places, units = known
    for name, layer in layers.items():
        layer.set_units(input_rms=units[name])
    return path, places
