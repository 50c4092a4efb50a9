"""The table of ops: one row an op, whatever its spelling.

Other packages add rows by entry points of the group "fxprune.ops": an :class:`Op`, or a sequence of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from fxprune.ops.op import Op
from fxprune.ops.rows import (
    activations,
    arithmetic,
    elementwise,
    identities,
    movement,
    norms,
    others,
    products,
    windows,
)

OWN: tuple[Op, ...] = (
    *activations.ROWS,
    *elementwise.ROWS,
    *identities.ROWS,
    *arithmetic.ROWS,
    *movement.ROWS,
    *windows.ROWS,
    *norms.ROWS,
    *products.ROWS,
    *others.ROWS,
)
"""Our rows."""


def row_of_layer(kind: Any) -> Op | None:
    """Return the row of a layer's class, or of the class that it derives from; None if there is none."""
    return _of_layer(kind)


def row_of_target(target: Any) -> Op | None:
    """Return the row of a function, or of a method by its name; None if there is none."""
    rows = _by_spelling()
    try:
        found = rows.get(target)
    except TypeError:  # not hashable
        return None
    if found is None and not isinstance(target, str):
        home = getattr(target, "__module__", None)
        if isinstance(home, str) and home.startswith(_packages()):
            found = rows.get(f"{home}.{getattr(target, '__name__', '')}")
    return found


_tried: list[Op] = []


@cache
def rows() -> tuple[Op, ...]:
    """Return all rows: ours, those of other packages, and those that are tried."""
    found = list(OWN)
    for point in entry_points(group="fxprune.ops"):
        loaded = point.load()
        found += [loaded] if isinstance(loaded, Op) else loaded
    return (*found, *_tried)


@contextmanager
def with_rows(added: Iterable[Op]) -> Iterator[None]:
    """Inside, the table has the rows ``added`` too: to try them before they are published."""
    before = list(_tried)
    _tried.extend(added)
    _forget()
    try:
        yield
    finally:
        _tried[:] = before
        _forget()


def _forget() -> None:
    for one in (rows, _by_spelling, _packages, _of_layer):
        one.cache_clear()


@cache
def _by_spelling() -> dict[Any, Op]:
    """Return the rows by function, method's name, and full name of a function in a package that is not imported."""
    return {spelling: op for op in rows() for spelling in (*op.functions, *op.methods)}


@cache
def _packages() -> tuple[str, ...]:
    names = (one for op in rows() for one in op.functions if isinstance(one, str))
    return tuple({name.partition(".")[0] + "." for name in names})


@cache
def _of_layer(kind: Any) -> Op | None:
    by_class = {layer: op for op in rows() for layer in op.layers}
    return next((by_class[one] for one in kind.__mro__ if one in by_class), None)
