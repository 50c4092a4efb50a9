"""The best layer now, whatever comes later, with as few measurements as that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

from fxprune.choosing.search.base import Search


class LazyGreedy(Search):
    """Pick the layer that is missed least for its weight at this moment.

    Removing a layer seldom makes another one easier to miss, so those known from an earlier turn to be missed more
    than the best so far are not measured again (lazy greedy, Minoux 1978).
    """

    name: ClassVar[str] = "lazy-greedy"

    def next_layer(
        self,
        weights: Mapping[str, float],
        known: dict[str, float],
        missed: Callable[[str], float],
        may_go: Callable[[str], bool],
        comparing: Callable[[int, int], None],
    ) -> str | None:
        """Measure in the order of what is known, until no other can be better."""
        best, choice = math.inf, None
        found: dict[str, float] = {}
        ranked = sorted(weights, key=lambda path: known.get(path, 0.0) * weights[path])
        for number, path in enumerate(ranked):
            if known.get(path, 0.0) * weights[path] > best:
                break
            comparing(number, len(ranked))
            if not may_go(path):
                continue
            found[path] = missed(path)
            if choice is None or found[path] * weights[path] < best:
                best, choice = found[path] * weights[path], path
        known |= found
        return choice
