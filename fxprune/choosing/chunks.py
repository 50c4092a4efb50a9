"""Which channels of a group would close next while a network trains: those that are missed least, in chunks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from fxprune.choosing.remaining import Remaining
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.channels.labels import LEAST
from fxprune.structures.channels.running import Worth


class Chunks:
    """What closes next of each group; where time counts, in steps that save some.

    Args:
        remaining: the gates of a graph.
        share: of a group's width that closes at a time, above 0; a channel at least.
        multiple_of: how many at least, and of what the number of those is a multiple.
    """

    def __init__(self, remaining: Remaining, share: float, multiple_of: int) -> None:
        self._remaining = remaining
        self._steps = {path: math.lcm(multiple_of, remaining.step(path)) for path in remaining.channels}
        self._aligns = {path: remaining.step(path) > 1 for path in remaining.channels}
        self.sizes = {
            path: max(1, round(gate.width * share / self._steps[path])) * self._steps[path]
            for path, gate in remaining.channels.items()
        }

    def first(self) -> list[Chunk]:
        """Return a chunk of each group, whichever channels are in it."""
        return self.after({}, {path: np.zeros(gate.width) for path, gate in self._remaining.channels.items()})

    def after(self, closed: Mapping[str, Collection[int]], worth: Mapping[str, Worth]) -> list[Chunk]:
        """Return the next chunk of each group that has one, once those ``closed`` are gone; what is worth least."""
        found = []
        for path, gate in self._remaining.channels.items():
            places = [one for one in range(gate.width) if one not in closed.get(path, ())]
            size = self._size(path, len(places))
            if len(places) - size >= LEAST:
                places.sort(key=lambda one: worth[path][one])
                found.append(self._remaining.chunk(path, sorted(places[:size])))
        return found

    def _size(self, path: str, left: int) -> int:
        """Return how many of those ``left`` close together: first what is beyond a step."""
        beyond = left % self._steps[path] if self._aligns[path] else 0
        return beyond or self.sizes[path]
