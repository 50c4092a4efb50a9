"""Which node of an unpruned graph computes what a node of the pruned one stands for, and which part of it.

found = counterparts(pruned, reference)
found[node].of(value)     # of what the other node computes, the channels that are left at node
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from fxprune.facts.shapes import shape
from fxprune.ir.folded_factors import folded_factor
from fxprune.ir.kept_channels import KeptPlaces, Places, kept_places
from fxprune.ir.nodes import origins


class Counterpart(NamedTuple):
    """A node of the unpruned graph; ``places`` are those of its axes that are left in the pruned one.

    The pruned one computes ``factor`` times what the node does.
    """

    node: fx.Node
    places: Mapping[int, Places]
    factor: float = 1.0

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """Return what is left of a value of the node."""
        for axis, places in self.places.items():
            value = value.index_select(axis, torch.from_numpy(places).to(value.device))
        return value if self.factor == 1 else value.double() * self.factor


def counterparts(pruned: fx.GraphModule, reference: fx.GraphModule) -> dict[fx.Node, Counterpart]:
    """Return the counterparts of the nodes of ``pruned`` in ``reference``, from which passes made it.

    Those of other shapes have none: what stands there is something else. Nor have those that lost channels of another
    numbering (a pruned network that was loaded, and pruned again), or hold what ``reference`` has lost.
    """
    known, own = _by_origin(reference), _by_origin(pruned)
    found = {}
    for key, nodes in own.items():
        others = known.get(key, ())
        for node, other in zip(nodes, others, strict=True) if len(others) == len(nodes) else ():
            one = _counterpart(node, other)
            if one is not None:
                found[node] = one
    return found


def _by_origin(graph_module: fx.GraphModule) -> dict[tuple[str, str, str], list[fx.Node]]:
    """Return the nodes that stand for a traced one last, by its name and what they call."""
    found: dict[tuple[str, str, str], list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        found.setdefault((origins(node)[-1], node.op, str(node.target)), []).append(node)
    return found


def _counterpart(node: fx.Node, other: fx.Node) -> Counterpart | None:
    """Return ``other`` as the counterpart of ``node``, or None if it has another shape."""
    now, before = shape(node), shape(other)
    if now is None or before is None or len(now) != len(before):
        return None
    places = _places(node, other, before)
    if places is None:
        return None
    left = [len(places[axis]) if axis in places else size for axis, size in enumerate(before)]
    return Counterpart(other, places, folded_factor(node) / folded_factor(other)) if left[1:] == [*now[1:]] else None


def _places(node: fx.Node, other: fx.Node, sizes: Sequence[int]) -> dict[int, Places] | None:
    """Return what is left of ``other``, which may have lost channels itself; None if it does not hold all of it."""
    before = kept_places(other)
    found = {}
    for axis, kept in kept_places(node).items():
        every = before.get(axis) or KeptPlaces(np.arange(sizes[axis]), sizes[axis])
        if kept.of != every.of or not np.isin(kept.places, every.places).all():
            return None
        order = np.argsort(every.places)  # they may be in another order than they were traced in
        found[axis] = order[np.searchsorted(every.places, kept.places, sorter=order)]
    return found
