"""What a search is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar


class Search(ABC):
    """Picks the layer that goes next, one at a time."""

    name: ClassVar[str]

    @abstractmethod
    def next_layer(
        self,
        weights: Mapping[str, float],
        known: dict[str, float],
        missed: Callable[[str], float],
        may_go: Callable[[str], bool],
        comparing: Callable[[int, int], None],
    ) -> str | None:
        """Return the path of the layer that is missed least, times its weight; None if none may go.

        Args:
            weights: of the candidates, by path: what they save, and what else counts.
            known: how much layers were missed in earlier turns, by path; what is measured now is added.
            missed: measures how much a layer is missed now; takes long.
            may_go: says whether a candidate is one indeed; takes long too.
            comparing: is told before each is compared, how many were before it and how many may be.
        """
