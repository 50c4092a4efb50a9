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
    if kind not in _of_layers:  # asked for every node by every fact: a dictionary of our own is fastest
        by_class = {layer: op for op in rows() for layer in op.layers}
        _of_layers[kind] = next((by_class[one] for one in kind.__mro__ if one in by_class), None)
    return _of_layers[kind]


def row_of_target(target: Any) -> Op | None:
    """Return the row of a function, or of a method by its name; None if there is none."""
    try:
        return _of_targets[target]
    except KeyError:
        found = _of_targets[target] = _look_up(target)
        return found
    except TypeError:  # not hashable
        return None


def _look_up(target: Any) -> Op | None:
    by_spelling = _by_spelling()
    found = by_spelling.get(target)
    home = getattr(target, "__module__", None)
    if found is None and isinstance(home, str) and home.startswith(_packages()):
        found = by_spelling.get(f"{home}.{getattr(target, '__name__', '')}")
    return found


_tried: list[Op] = []
_of_layers: dict[Any, Op | None] = {}
_of_targets: dict[Any, Op | None] = {}


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
    for one in (rows, _by_spelling, _packages):
        one.cache_clear()
    _of_layers.clear()
    _of_targets.clear()


@cache
def _by_spelling() -> dict[Any, Op]:
    """Return the rows by function, method's name, and full name of a function in a package that is not imported."""
    return {spelling: op for op in rows() for spelling in (*op.functions, *op.methods)}


@cache
def _packages() -> tuple[str, ...]:
    names = (one for op in rows() for one in op.functions if isinstance(one, str))
    return tuple({name.partition(".")[0] + "." for name in names})
