"""How large the weights are that would go."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import fx

from fxprune.choosing.criteria.base import Criterion, Needs, Score
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, Site
from fxprune.costs.macs import around_regions
from fxprune.errors import FxpruneValueError
from fxprune.structures.gated_layers import Gate


class WeightNorm(Criterion):
    """The L2 norm of all kernels and matrices that would go, as one vector; no biases, norms or scales.

    Magnitude, as it is used everywhere; it needs no images, and says nothing of what a layer does. For layers: of
    channels "l2" is the same.
    """

    name: ClassVar[str] = "weight-norm"
    needs: ClassVar[Needs] = "weights"

    @contextmanager
    def measuring(self, graph_module: fx.GraphModule, sites: Collection[Site], samples: Samples) -> Iterator[Score]:
        """Return what sums the squares of a layer's weights."""
        yield _norm


def _norm(layer: Any) -> float:
    if isinstance(layer, ChannelSite):
        raise FxpruneValueError("criterion weight-norm scores convs and branches; of channels take l2")
    return norm_of(layer, 2)


def norm_of(layer: Gate, order: int) -> float:
    """Return the L1 or the L2 norm of all kernels and matrices that would go with ``layer``, as one vector."""
    held = {key: one for node in layer.nodes for key, one in around_regions(node).items() if one.dim() > 1}
    norms = [float(torch.linalg.vector_norm(one.detach(), order, dtype=torch.float64)) for one in held.values()]
    return float(sum(one**order for one in norms) ** (1 / order))
