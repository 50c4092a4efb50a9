"""Whether a text is only shown to people: what an error, a warning or a log says decides nothing.

raise ValueError(f"{h} x {w}")          shown
_assert(h % 2 == 0, f"odd: {h}")        shown
self.heads[str(h)]                      decides
"""

from __future__ import annotations

import ast
import linecache
import os
from functools import lru_cache
from types import FrameType

from fxprune.tracing.source import is_librarys

# Functions that take a text and show it, where what they return is thrown away.
_SHOWING = frozenset(
    ("print", "warn", "warning", "warning_once", "info", "debug", "error", "exception", "critical", "log", "_assert")
)
# What a text is made of, and what hands it on without a look at it.
_PARTS = (
    *(ast.JoinedStr, ast.FormattedValue, ast.Constant, ast.BinOp, ast.Attribute),
    *(ast.Tuple, ast.List, ast.Starred, ast.keyword),
)
_MAKING = frozenset(("str", "repr", "format", "join", "tuple", "list", "map", "ascii"))
_SHOWN_BY = tuple(f"{os.sep}{name}" for name in (f"logging{os.sep}__init__.py", "warnings.py"))

Place = tuple[int, int, int, int]  # first line, last line, first column, column after the last


def is_shown(frame: FrameType) -> bool:
    """Say whether the text that ``frame`` asks a value for is only shown; False where its source is not at hand."""
    filename = frame.f_code.co_filename
    if is_librarys(filename) or filename.endswith(_SHOWN_BY):
        return True
    positions = getattr(frame.f_code, "co_positions", None)  # of Python 3.11 on
    if positions is None:
        return False
    place = list(positions())[frame.f_lasti // 2]
    return None not in place and _is_shown(filename, place)


@lru_cache(maxsize=1024)
def _is_shown(filename: str, place: Place) -> bool:
    path = _path_to(filename, place)
    inner: ast.AST | None = None
    for outer, node in zip([*path[-2::-1], None], reversed(path), strict=True):
        if _shows(node, inner, outer):
            return True
        if not _hands_on(node, inner, outer):
            return False
        inner = node
    return False


def _shows(node: ast.AST, inner: ast.AST | None, outer: ast.AST | None) -> bool:
    """Say whether ``node`` shows what its part ``inner`` makes: an error, the message of an assertion, a log."""
    if isinstance(node, ast.Assert):
        return inner is node.msg
    if isinstance(node, ast.Call) and isinstance(outer, ast.Expr):
        return _name(node) in _SHOWING and inner is not node.func
    return isinstance(node, ast.Raise)


def _hands_on(node: ast.AST, inner: ast.AST | None, outer: ast.AST | None) -> bool:
    """Say whether ``node`` puts the text of its part ``inner`` into a larger one, or into an error that is raised."""
    if inner is None and isinstance(outer, ast.Tuple):
        return True  # "%s" % (h, w), which Python compiles as it does f"{h}"
    if isinstance(node, ast.Call):
        return _name(node) in _MAKING or isinstance(outer, ast.Raise)
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return inner is node.elt
    return isinstance(node, _PARTS)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _path_to(filename: str, place: Place) -> list[ast.AST]:
    """Return the nodes of a file's tree that are around ``place``, outermost first."""
    found: list[ast.AST] = []
    inner: ast.AST | None = _tree(filename)
    while inner is not None:
        found.append(inner)
        inner = next((child for child in ast.iter_child_nodes(inner) if _is_around(child, place)), None)
    return found


@lru_cache(maxsize=64)
def _tree(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return None


def _is_around(node: ast.AST, place: Place) -> bool:
    if not hasattr(node, "end_lineno"):  # a comprehension, a case of a match
        return any(_is_around(child, place) for child in ast.iter_child_nodes(node))
    first, last, start, end = place
    begins, ends = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
    return bool(begins <= (first, start) and (last, end) <= ends)
