"""How large the weights are that would go."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import fx

from fxprune.choosing.criteria.base import Criterion
from fxprune.costs.macs import around_regions
from fxprune.structures.gated_layers import Gate


class WeightNorm(Criterion):
    """The L2 norm of all kernels and matrices that would go, as one vector; no biases, norms or scales.

    Magnitude, as it is used everywhere; it needs no images, and says nothing of what a layer does.
    """

    name: ClassVar[str] = "weight-norm"

    @contextmanager
    def measuring(
        self, graph_module: fx.GraphModule, layers: Collection[Gate], probe: tuple[Any, ...]
    ) -> Iterator[Callable[[Gate], float]]:
        """Return what sums the squares of a layer's weights."""
        yield _norm


def _norm(layer: Gate) -> float:
    held = {key: one for node in layer.nodes for key, one in around_regions(node).items() if one.dim() > 1}
    return math.sqrt(sum(float(one.detach().double().square().sum()) for one in held.values()))
