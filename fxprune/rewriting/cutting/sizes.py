"""How sizes, indices and numbers are written once channels are gone.

A number is judged where it is used. As a size it becomes what is foretold: it stays if it computes that by itself
then, or is a size of an axis of unknown length; else it is written out, unless batch or resolution is in it. As a
value (``C ** -0.5``) it keeps the number that it was.
"""

from __future__ import annotations

from itertools import pairwise
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

    def counts(self, node: fx.Node, given: tuple[Any, ...], before: list[int], after: list[int]) -> Any:
        """Return numbers likewise, none of which can be left open."""
        found = self.sizes(node, given, tuple(before), tuple(after))
        if -1 in found:
            raise Fault(node, "repeats as often as both channels and batch or resolution are many")
        return found

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
        if not isinstance(one, slice | tuple | list):
            return int(before[number(one) % len(mask)])
        if one == slice(None):
            return one
        one = fx.map_arg(one, number)
        if not isinstance(one, slice) or one.step not in (None, 1):
            places = np.arange(len(mask))[one if isinstance(one, slice) else list(one)]
            return _places(before[places[mask[places]]].tolist())
        start, stop, _ = one.indices(len(mask))
        left = None if one.start is None else int(before[start])
        right = None if one.stop is None else int(before[stop])
        return slice(left, right, None)


def _places(places: list[int]) -> Any:
    """Return a slice that takes ``places``, or these, if none does."""
    steps = {after - before for before, after in pairwise(places)}
    step = steps.pop() if len(steps) == 1 else 0
    return slice(places[0], places[-1] + 1, step) if step > 0 else places
