"""Which channels of a graph can change places: by moving rows, columns and entries of what makes and reads them.

W2 relu(norm(W1 x))   ->   W2[:, order] relu(norm[order](W1[order] x))      the same function, whatever the order

Whatever holds the channels must hold all of them, in the order in which they are made, each as often as the others in
a row (a channel's H x W places once it is flattened), and no others along the same axis. Then each op does the same
to every one of them, and a stable sort by the new places is the same move everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from torch import fx

from fxprune.ir.nodes import place
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import NONE, Array
from fxprune.structures.channels.values import values_in


class Movable:
    """The channels of one graph, and why some of them cannot change places."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    def obstacle(self, classes: Array) -> str | None:
        """Return why ``classes``, each once, in the order in which they are made, cannot move; None if they can."""
        stays = self.channels.stays[classes] & (classes != NONE)
        if stays.any():
            return str(self.channels.reasons[int(classes[stays][0])])
        if not classes.all() or len(np.unique(classes)) < len(classes):
            return "its features are not all channels, each another one"
        wanted = self.channels.flagged(classes.tolist())
        for where, labels in self._held:
            held = self.channels.class_of[labels]
            if not wanted[held].any():
                continue
            if not in_order(held, classes):
                return f"{where}: holds them in another order, or only some of them"
            if id(labels) in self._beside:
                return f"{where}: holds others along the same axis"
        return None

    @cached_property
    def _beside(self) -> set[int]:
        """The arrays of labels, by identity, that share an axis with another one: what moves one moves both."""
        walk = self.channels.walk
        axes = [vectors for record in walk.records for vectors in record.axes.values()]
        for nest in (*walk.values.values(), *walk.hidden.values()):
            for value in values_in(nest):
                along = range(len(value.shape))
                axes += [tuple(one.labels for one in value.layers if axis in one.axes) for axis in along]
        return {id(one) for vectors in axes if len(vectors) > 1 for one in vectors}

    @cached_property
    def _held(self) -> list[tuple[str, Array]]:
        """Whatever has labels, each array of them once, and where it is."""
        found: dict[int, tuple[str, Array]] = {}
        for node, labels in self._of_values():
            found.setdefault(id(labels), (place(node), labels))
        for record in self.channels.walk.records:
            for vectors in record.axes.values():
                for one in vectors:
                    found.setdefault(id(one), (f"a parameter of shape {record.shape}", one))
        return list(found.values())

    def _of_values(self) -> Iterator[tuple[fx.Node, Array]]:
        walk = self.channels.walk
        for node, nest in (*walk.values.items(), *walk.hidden.items()):
            for value in values_in(nest):
                for layer in value.layers:
                    yield node, layer.labels


def in_order(held: Array, classes: Array) -> bool:
    """Say whether an array holds all ``classes`` in their order, each equally often in a row."""
    times, rest = divmod(len(held), len(classes))
    return held.ndim == 1 and rest == 0 and np.array_equal(held, np.repeat(classes, times))


def in_order_of_making(classes: Array) -> Array:
    """Return the classes of an axis, each once, in the order in which they come; 0 is left where it is."""
    first = np.unique(classes, return_index=True)[1]
    found: Array = classes[np.sort(first)]
    return found


def units(classes: Array | None, width: int) -> Array:
    """Return the number of the unit of each of ``width`` columns, which go into one block together.

    Columns of one class are a unit, if all classes are as wide and there are several; else each is one of its own.
    """
    if classes is None or not classes.all():
        return np.arange(width, dtype=np.int64)
    known, first, numbers, counts = np.unique(classes, return_index=True, return_inverse=True, return_counts=True)
    if len(set(counts.tolist())) > 1 or len(known) == 1:
        return np.arange(width, dtype=np.int64)
    order = np.empty(len(known), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(known))
    found: Array = order[numbers]
    return found
