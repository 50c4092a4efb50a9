"""How sizes, indices and numbers are written once channels are gone.

A number is judged where it is used. As a size it becomes what is foretold: it stays if it computes that by itself
then, or is a size of an axis of unknown length; else it is written out, unless batch or resolution is in it. As a
value (``C ** -0.5``) it keeps the number that it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from fxprune.facts.shapes import META, metadata_in
from fxprune.rewriting.cutting.kept import Kept
from fxprune.rewriting.cutting.numbers import Numbers
from fxprune.structures.channels.values import Value


class Fault(Exception):
    """A call that cannot be written for what is kept: ``node``, and why."""

    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.node = node
        self.why = why


class Sizes:
    """Writes numbers for what ``kept`` says of the values of a graph."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.numbers = Numbers(kept)

    def as_value(self, user: fx.Node, number: fx.Node) -> Any:
        """Return what stands for a number that is used as a value: itself, or what it was."""
        if metadata_in(number.meta.get(META)) or not self.numbers.changes(number):
            return number
        if self._any_free(number):
            raise Fault(user, f"computes with {number.name}, in which are both channels and batch or resolution")
        return number.meta[META]

    def _any_free(self, number: fx.Node) -> bool:
        free = self.numbers.is_free(number)
        return any(free) if isinstance(free, tuple) else bool(free)

    def sizes(self, node: fx.Node, given: tuple[Any, ...], before: tuple[int, ...], after: tuple[int, ...]) -> Any:
        """Return sizes, written as ``given`` for ``before``, as they are for ``after``."""
        if len(given) != len(before):
            raise Fault(node, "its sizes are not written out")
        found = [self._size(one, a, b) for one, a, b in zip(given, before, after, strict=True)]
        unknown = [place for place, one in enumerate(found) if one is None]
        if unknown:
            if len(unknown) > 1 or any(type(one) is int and one == -1 for one in found):
                raise Fault(node, "several of its sizes hold both channels and batch or resolution")
            found[unknown[0]] = -1
        return tuple(found)

    def _size(self, given: Any, before: int, after: int) -> Any:
        """Return how one size is written; None if it cannot be told."""
        if not isinstance(given, fx.Node):
            return given if given == -1 or before == after else after
        natural = self.numbers.after(given)
        if natural == after:
            return given
        return None if self._any_free(given) else after

    def place(self, node: fx.Node, one: Any, x: Value, axis: int) -> Any:
        """Return a slice or a number in an index, of the same channels, counted anew."""
        mask = self.kept.along(x, axis)
        number = self.kept.walk.number
        if mask is None:
            return fx.map_arg(one, lambda read: self.as_value(node, read))
        before = np.concatenate(([0], np.cumsum(mask)))
        if not isinstance(one, slice):
            return int(before[number(one) % len(mask)])
        if one == slice(None):
            return one
        start, stop, step = slice(*(number(part) for part in (one.start, one.stop, one.step))).indices(len(mask))
        if step != 1:
            raise Fault(node, "takes every so many channels")
        left = None if one.start is None else int(before[start])
        right = None if one.stop is None else int(before[stop])
        return slice(left, right, None)
