"""What costs are sums of: terms with an amount, held by some nodes, along some axes of channels.

A term goes when all nodes that hold it have gone; of what stays, the shares of its axes that are kept say how much.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Vectors

Amounts = NDArray[np.float64]
Nodes = frozenset[fx.Node]
Term = tuple[float, Nodes, Iterable[Vectors]]
"""An amount, the nodes that hold it, and the labels along each of its axes."""
Places = Sequence[int] | NDArray[np.int64] | slice
NO_NODES: Nodes = frozenset()


class Axes:
    """The distinct axes of all terms, numbered, and the share of each that is left; behind them 1, at -1."""

    def __init__(self, channels: Channels | None) -> None:
        self.channels = channels
        self._numbers: dict[tuple[int, ...], int] = {}
        self._classes: list[Array] = []  # at each place of an axis, a row for each layer of labels

    def number(self, vectors: Vectors) -> int:
        """Return the number of an axis; -1 of one without labels, which loses nothing."""
        if not vectors:
            return -1
        assert self.channels is not None
        key = tuple(map(id, vectors))  # held by the analysis
        if key not in self._numbers:
            self._numbers[key] = len(self._classes)
            self._classes.append(np.stack([self.channels.class_of[one] for one in vectors]))
        return self._numbers[key]

    def close(self) -> None:
        """Take note that all axes are known."""
        self._whole = np.ones(len(self._classes) + 1)
        self._last = frozenset[int](), self._whole
        self._of_group: dict[int, Sequence[int]] = {}

    def kept(self, classes: frozenset[int]) -> Amounts:
        """Return the share of each axis that is left without ``classes``."""
        if not classes:
            return self._whole
        if self._last[0] != classes:
            assert self.channels is not None
            goes = self.channels.flagged(classes)
            self._last = classes, np.array([1 - goes[one].any(0).mean() for one in self._classes] + [1.0])
        return self._last[1]

    def kept_beside(self, gone: frozenset[int], classes: Collection[int]) -> Amounts:
        """Return the same without ``classes`` too, all of them of one group."""
        found = self.kept(gone).copy()
        if not classes:
            return found
        assert self.channels is not None
        goes = self.channels.flagged(gone | set(classes))
        for axis in self._touched(next(iter(classes))):
            found[axis] = 1 - goes[self._classes[axis]].any(0).mean()
        return found

    def _touched(self, one: int) -> Sequence[int]:
        """Return the axes that have channels of the group of a class."""
        assert self.channels is not None
        if not self._of_group:
            for group in self.channels.groups:
                member = self.channels.flagged(group.classes)
                axes = [axis for axis, classes in enumerate(self._classes) if member[classes].any()]
                self._of_group |= dict.fromkeys(group.classes.tolist(), axes)
        return self._of_group.get(one, range(len(self._classes)))

    def own(self, classes: Array) -> dict[int, int]:
        """Return the axes that have no other channels than ``classes``, each with how many of a class."""
        assert self.channels is not None
        member, found = self.channels.flagged(classes.tolist()), {}
        for axis in self._touched(int(classes[0])):
            if member[self._classes[axis]].any(0).all():
                found[axis] = max(1, self._classes[axis].shape[1] // len(classes))
        return found

    def by_class(self, of_axes: Mapping[int, float], count: int) -> Amounts:
        """Return by class the sum of what is lost with each axis, a place of it at a time."""
        found = np.zeros(count)
        for axis, amount in of_axes.items():
            classes = self._classes[axis]
            np.add.at(found, classes, amount / classes.shape[1])
        return found


class Terms:
    """One cost: of each term the product of its amount with the shares of its axes that are kept."""

    def __init__(self, terms: Iterable[Term], axes: Axes) -> None:
        known = [(amount, nodes, [axes.number(one) for one in along]) for amount, nodes, along in terms]
        self._amounts = np.array([float(amount) for amount, *_ in known])
        self._holders = [nodes for _, nodes, _ in known]
        self._along = _padded([numbers for *_, numbers in known])
        self._of_node: dict[fx.Node, list[int]] = {}
        for index, nodes in enumerate(self._holders):
            for node in nodes:
                self._of_node.setdefault(node, []).append(index)
        self._last: tuple[Nodes, Amounts] = NO_NODES, np.ones(len(known))

    def _values(self, kept: Amounts, terms: Places = slice(None)) -> Amounts:
        """Return what each of ``terms`` comes to where so much of each axis is kept."""
        found: Amounts = self._amounts[terms] * kept[self._along[terms]].prod(1)
        return found

    def _stays(self, gone: Nodes) -> Amounts:
        """Return 1 for each term that a node which is not ``gone`` holds, 0 for the others."""
        if self._last[0] != gone:
            self._last = gone, np.array([not nodes <= gone for nodes in self._holders], dtype=float)
        return self._last[1]

    def left(self, kept: Amounts, gone: Nodes) -> float:
        """Return the sum without what is ``gone``."""
        return float((self._values(kept) * self._stays(gone)).sum())

    def saved_with(self, nodes: Nodes, kept: Amounts, gone: Nodes) -> float:
        """Return what goes with ``nodes``."""
        found = sorted({index for node in nodes - gone for index in self._of_node.get(node, ())})
        going = [index for index in found if self._holders[index] <= nodes | gone]
        return float(self._values(kept, going).sum())

    def saved_between(self, before: Amounts, after: Amounts, gone: Nodes) -> float:
        """Return what goes where less of the axes is kept."""
        touched = np.flatnonzero((before != after)[self._along].any(1))
        saved = self._values(before, touched) - self._values(after, touched)
        return float((saved * self._stays(gone)[touched]).sum())

    def of_axes(self) -> Mapping[int, float]:
        """Return what goes with each axis, to first order."""
        found: dict[int, float] = {}
        for amounts, numbers in zip(self._slopes().tolist(), self._along.tolist(), strict=True):
            for amount, number in zip(amounts, numbers, strict=True):
                if number >= 0:
                    found[number] = found.get(number, 0.0) + amount
        return found

    def _slopes(self) -> Amounts:
        """Return what each term loses with all of each of its axes, at the rate of what goes first: (terms, axes)."""
        return np.broadcast_to(self._amounts[:, None], self._along.shape)


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the numbers of axes of each term, (terms, axes); in free places that of one that loses nothing."""
    width = max([1, *map(len, rows)])
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], dtype=np.int64).reshape(-1, width)
