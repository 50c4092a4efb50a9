"""What a function takes where an argument is not given: emitted calls leave that out, as one would by hand."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from torch._jit_internal import boolean_dispatched

_PLAIN = (bool, int, float, str)


@lru_cache(maxsize=1 << 10)
def parameters(function: Any) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of ``function``; none if they are not known for certain, as those of compiled ones."""
    kind = boolean_dispatched.get(function) if inspect.isfunction(function) else None
    try:
        found = tuple(inspect.signature(kind["if_false"] if kind else function).parameters.values())
    except (TypeError, ValueError):
        return ()
    starred = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found)
    return () if starred or not inspect.isfunction(function) else found


def without_defaults(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what is left of the arguments of ``function`` without those that are its defaults."""
    known = parameters(function)
    if len(args) > len(known):
        return args, kwargs
    named = {p.name: p for p in known}
    left = {name: v for name, v in kwargs.items() if name not in named or not _is(named[name].default, v)}
    while (
        args
        and not left.keys() & {p.name for p in known[len(args) :]}
        and _is(known[len(args) - 1].default, args[-1])
    ):
        args = args[:-1]
    return args, left


def _is(default: Any, value: Any) -> bool:
    if default is None or value is None:
        return default is None and value is None
    return type(default) in _PLAIN and type(value) is type(default) and bool(value == default)
