"""The shape of a value with sizes that are not known, and what must hold of them lest the graph raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import fx

from fxprune.facts.shape_rules.sizes import Atom, Product, Size, atom_of, broadcast, product, replaced, size_of_axis
from fxprune.ops.call import Call


class Shape(NamedTuple):
    """All axes of the value of ``lead`` but its last ``cut``, if there is one, and then axes of the sizes ``dims``.

    Where there is a lead the rank is not known.
    """

    lead: fx.Node | None
    cut: int
    dims: tuple[Size, ...]

    @property
    def rank(self) -> int | None:
        """The number of axes, if it is known."""
        return None if self.lead is not None else len(self.dims)


class Refused(Exception):
    """The graph takes no inputs of these ranks."""


class Case:
    """The shapes of all values where the inputs have certain ranks, and what must hold lest the graph raises."""

    def __init__(self, ranks: dict[fx.Node, int]) -> None:
        self.ranks = dict(ranks)
        self.numbers: dict[Atom, Size] = {}
        self._told: dict[Size, Size] = {}
        self._normal: dict[fx.Node, Shape | None] = {}
        self.shapes: dict[fx.Node, Any] = {}

    def own(self, node: fx.Node) -> Shape:
        """Return a shape of which nothing is known."""
        return Shape(node, 0, ())

    def fresh(self, node: fx.Node, rank: int) -> Shape:
        """Return a shape of which only the rank is known."""
        return Shape(None, 0, tuple(size_of_axis("axis", node, axis) for axis in range(rank, 0, -1)))

    def resolved(self, shape: Shape) -> Shape:
        """Return ``shape`` without a lead, if its rank is known."""
        if shape.lead is None or shape.lead not in self.ranks:
            return shape
        count = self.ranks[shape.lead] - shape.cut
        if count < 0:
            raise Refused
        return Shape(None, 0, (*self._axes(shape, count), *shape.dims))

    def last(self, shape: Shape, count: int) -> Shape:
        """Return ``shape`` with at least ``count`` sizes told: an op needs so many axes."""
        shape = self.resolved(shape)
        missing = count - len(shape.dims)
        if missing <= 0:
            return shape
        if shape.lead is None:
            raise Refused
        return Shape(shape.lead, shape.cut + missing, (*self._axes(shape, missing), *shape.dims))

    def ranked(self, shape: Shape, rank: int) -> Shape:
        """Return ``shape``, which an op takes only if it has ``rank`` axes."""
        if shape.lead is not None and shape.lead not in self.ranks:
            self.ranks[shape.lead] = rank - len(shape.dims) + shape.cut
        shape = self.resolved(shape)
        if len(shape.dims) != rank:
            raise Refused
        return shape

    def among(self, shape: Shape, *ranks: int) -> Shape:
        """Return ``shape``, which an op takes only if it has one of these ranks."""
        shape = self.resolved(shape)
        if shape.rank is not None and shape.rank not in ranks:
            raise Refused
        return shape

    def require(self, size: Size, number: Size) -> None:
        """Note that ``size`` is ``number``, lest an op raises."""
        size = self.told(size)
        if not isinstance(number, int):
            return
        if isinstance(size, int):
            if size != number:
                raise Refused
        elif (atom := atom_of(size)) is not None and number == 0 and atom[0] == "mod":
            self.numbers[("floordiv", *atom[1:])] = product([atom[1], product([atom[2]], -1)])  # type: ignore[list-item]
            self._told.clear()
        elif atom is not None and number:
            self.numbers[atom] = number
            self._told.clear()
            if atom[0] == "rank":
                lead, more = atom[1:]
                self.ranks[lead] = number - more  # type: ignore[index,operator]

    def restore(self, ranks: dict[fx.Node, int], numbers: dict[Atom, Size]) -> None:
        """Forget what was noted since these were all that was known."""
        self.ranks, self.numbers = ranks, numbers
        self._told.clear()

    def told(self, size: Size) -> Size:
        """Return ``size`` with the numbers that are known of it."""
        if isinstance(size, int) or not self.numbers:
            return size
        if size not in self._told:
            self._told[size] = replaced(size, self.numbers)
        return self._told[size]

    def wide(self, node: fx.Node, first: Shape, second: Shape) -> Shape:
        """Return the shape of an op that broadcasts two values."""
        first, second = self.resolved(first), self.resolved(second)
        if first.lead is not None and first.lead is second.lead:
            count = max(len(first.dims) - first.cut, len(second.dims) - second.cut)
            if len(first.dims) - first.cut != len(second.dims) - second.cut:
                return self.own(node)  # ranks that differ
            count = max(len(first.dims), len(second.dims))
            first, second = self.last(first, count), self.last(second, count)
        if len(first.dims) < len(second.dims):
            first, second = second, first
        if second.lead is not None and second[:2] != first[:2]:
            return self.own(node)
        tail = len(first.dims) - len(second.dims)
        dims = []
        for a, b in zip(first.dims[tail:], second.dims, strict=True):
            size = broadcast(self.told(a), self.told(b))
            if size is None:
                raise Refused
            dims.append(size)
        return Shape(first.lead, first.cut, (*first.dims[:tail], *dims))

    def normal(self, node: fx.Node) -> Shape | None:
        """Return the shape of ``node`` in the form in which shapes are compared; None if it is no tensor.

        Ask when the shapes of all nodes are known.
        """
        if node not in self._normal:
            shape = self.shapes.get(node)
            self._normal[node] = self.compared(shape) if isinstance(shape, Shape) else None
        return self._normal[node]

    def compared(self, shape: Shape) -> Shape:
        """Return ``shape`` in the form in which shapes are compared."""
        lead, cut, dims = self.resolved(shape)
        dims = tuple(self.told(size) for size in dims)
        while lead is not None and cut and dims and self._is_axis(dims[0], lead, cut):
            cut, dims = cut - 1, dims[1:]
        return Shape(lead, cut, dims)

    def _is_axis(self, size: Size, lead: fx.Node, axis: int) -> bool:
        return size == self.told(size_of_axis("axis", lead, axis))

    def _axes(self, shape: Shape, count: int) -> Iterator[Product]:
        assert shape.lead is not None
        yield from (size_of_axis("axis", shape.lead, shape.cut + axis) for axis in range(count, 0, -1))


Rule = Callable[[Call, Any, Case], Any]  # of the shape of a first argument, the shape of what is computed
