"""Labels of channels, and which of them can only go together: union-find on arrays.

    rows = labels.fresh(64)                      a conv's 64 output channels
    labels.join(rows, other, reason)             y = conv1(x) + conv2(x): the channels at one place go together
    labels.pin(rows, reason)                     the outputs of the network: they stay

Label 0 is "no channel": what is joined with it stays. A set of labels that go together is a class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.ir.nodes import place

Array = NDArray[np.int64]
NONE = 0
LEAST = 2
"""How many classes of an axis stay at least: an axis of size 1 would be broadcast."""


class Reason(NamedTuple):
    """Why channels stay: ``node``, and what it does with them."""

    node: fx.Node
    why: str

    def __str__(self) -> str:
        return f"{place(self.node)}: {self.why}"


_NO_REASON: Any = None


class Labels:
    """All labels of one graph."""

    def __init__(self) -> None:
        self._parents = np.arange(1024, dtype=np.int64)
        self._count = 1
        self.ranges: list[tuple[int, int]] = []
        self.joins: list[tuple[Array, Array, Reason]] = []  # of what did not go together before
        self._pins: list[tuple[Array, Reason]] = []

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Array:
        """Return ``count`` new labels."""
        first = self._count
        self._count += count
        self.ranges.append((first, self._count))
        if self._count > len(self._parents):
            more = np.arange(len(self._parents), max(2 * self._count, 1024), dtype=np.int64)
            self._parents = np.concatenate((self._parents, more))
        return np.arange(first, self._count, dtype=np.int64)

    @property
    def classes(self) -> Array:
        """The class of each label that there is now."""
        return self.find(np.arange(self._count, dtype=np.int64))

    def find(self, labels: Array) -> Array:
        """Return the class of each label, which is the smallest label in it."""
        parents = self._parents
        found = parents[labels]
        while True:
            above = parents[found]
            if np.array_equal(above, found):
                return found
            parents[labels] = above
            found = above

    def join(self, first: Array, second: Array, reason: Reason) -> None:
        """Have the labels at each place of two arrays of one shape go together; ``reason`` pins those that meet 0."""
        if first is second:
            return
        if not (first.all() and second.all()):
            self.pin(first[second == NONE], reason)
            self.pin(second[first == NONE], reason)
            both = (first != NONE) & (second != NONE)
            first, second = first[both], second[both]
        while True:
            one, two = self.find(first), self.find(second)
            differ = one != two
            if not differ.any():
                return
            one, two = one[differ], two[differ]
            self.joins.append((one, two, reason))
            self._parents[np.maximum(one, two)] = np.minimum(one, two)

    def join_along(self, labels: Array, axis: int, reason: Reason) -> Array:
        """Have all labels along one axis of an array go together; return it without that axis."""
        first: Array = np.asarray(labels.take(0, axis=axis))
        if labels.shape[axis] > 1:
            rest = np.moveaxis(labels, axis, 0)[1:]
            self.join(np.broadcast_to(first, rest.shape).ravel(), rest.ravel(), reason)
        return first

    def classes_along(self, labels: Array, axis: int) -> int:
        """Return how many classes there would be if all labels at one place of ``axis`` went together."""
        rows = np.moveaxis(self.find(labels), axis, 0).reshape(labels.shape[axis], -1)
        known, places = np.unique(rows, return_inverse=True)
        together = Labels()
        fresh = together.fresh(len(known))
        rows = fresh[places.reshape(rows.shape)]
        together.join(np.repeat(rows[:, 0], rows.shape[1]), rows.ravel(), _NO_REASON)
        return len(np.unique(together.find(fresh)))

    def pin(self, labels: Array, reason: Reason) -> None:
        """Have ``labels`` stay."""
        if labels.size:
            self._pins.append((labels, reason))

    def pinned(self) -> NDArray[np.bool_]:
        """Return which classes stay, by class."""
        return self._first_pins() < len(self._pins)

    def reasons(self) -> dict[int, Reason]:
        """Return why classes stay, by class: the first reason that was found."""
        first = self._first_pins()
        pinned = np.flatnonzero(first < len(self._pins))
        order = pinned[np.argsort(first[pinned], kind="stable")].tolist()
        return {one: self._pins[first[one]][1] for one in order}

    def _first_pins(self) -> Array:
        """Return which of the pins is the first of a class, by class; as many as there are where none is."""
        never, classes = len(self._pins), self.classes
        found = np.full(len(classes), never)
        for index in reversed(range(never)):
            found[classes[self._pins[index][0]]] = index
        found[NONE] = never
        return found
