"""What a criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import fx

from fxprune.structures.gated_layers import Gate


class Criterion(ABC):
    """Says how much a graph would miss each of its layers, at a moment of its training."""

    name: ClassVar[str]

    @abstractmethod
    def measuring(
        self, graph_module: fx.GraphModule, layers: Collection[Gate], probe: tuple[Any, ...]
    ) -> AbstractContextManager[Callable[[Gate], float]]:
        """Return what stands for one moment: inside, it says of a layer how much it is missed, 0 or more.

        Afterwards the graph is as before, but for the units of scales, which may be taken anew from what they scale.

        Args:
            graph_module: the graph, as it trains.
            layers: all that may ever go, closed ones too.
            probe: the inputs to compare layers on.
        """
