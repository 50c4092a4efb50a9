"""Which node of an unpruned graph computes what a node of the pruned one stands for, and which part of it.

counterparts = Counterparts(pruned, reference)
counterparts[node].of(value)     # of what the other node computes, the channels that are left at node
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from fxprune.facts.shapes import shape
from fxprune.ir.kept_channels import Places, kept_places
from fxprune.ir.nodes import origins


class Counterpart(NamedTuple):
    """A node of the unpruned graph; ``places`` are those of its axes that are left in the pruned one."""

    node: fx.Node
    places: Mapping[int, Places]

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """Return what is left of a value of the node."""
        for axis, places in self.places.items():
            value = value.index_select(axis, torch.from_numpy(places).to(value.device))
        return value


def counterparts(pruned: fx.GraphModule, reference: fx.GraphModule) -> dict[fx.Node, Counterpart]:
    """Return the counterparts of the nodes of ``pruned`` in ``reference``, from which passes made it.

    Those of other shapes have none: what stands there is something else.
    """
    known: dict[str, fx.Node] = {}
    for node in reference.graph.nodes:
        known.setdefault(origins(node)[-1], node)
    found = {}
    for node in pruned.graph.nodes:
        other = known.get(origins(node)[-1])
        if other is not None and shape(node) is not None and shape(other) is not None:
            one = Counterpart(other, _places(node, other))
            if _is_left(node, one):
                found[node] = one
    return found


def _places(node: fx.Node, other: fx.Node) -> dict[int, Places]:
    """Return what is left of ``other``, which may have lost channels itself."""
    before = kept_places(other)
    found = {}
    for axis, places in kept_places(node).items():
        one = np.searchsorted(before[axis], places) if axis in before else places
        if len(one) < (shape(other) or ())[axis]:
            found[axis] = one
    return found


def _is_left(node: fx.Node, one: Counterpart) -> bool:
    before = list(shape(one.node) or ())
    for axis, places in one.places.items():
        before[axis] = len(places)
    return tuple(before[1:]) == tuple((shape(node) or ())[1:])
