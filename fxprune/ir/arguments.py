"""Arguments of the wrong kind are named where they are given: what is public calls this first.

The kinds are those of the annotations, read when something is first called.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import fx

from fxprune.errors import FxpruneTypeError, FxpruneValueError
from fxprune.ir.nodes import require_graph

_NUMBERS: dict[Any, tuple[type, str]] = {float: (Real, "a number"), int: (Integral, "a whole number")}


def require_arguments(function: Callable[..., Any], given: Mapping[str, Any], taker: str = "") -> None:
    """Raise what :func:`require_kind` does for each of ``given``, arguments of ``function`` by name.

    ``taker`` is what the user called, where that is not ``function`` by its own name.
    """
    for name, hint, fits in _kinds(function):
        if not fits(given[name]):
            require_kind(given[name], hint, taker or function.__qualname__.removesuffix(".__init__"), name)


def require_kind(value: Any, hint: Any, taker: str, name: str) -> None:
    """Raise FxpruneTypeError if ``value``, given to ``taker`` as ``name``, is not of the kind that ``hint`` says.

    FxpruneValueError if it is a text, but none of those that a Literal lists.
    """
    if hint is fx.GraphModule:
        require_graph(value, taker)
    elif not _test(hint)(value):
        shown = f" {value!r}" if isinstance(value, (str, Real)) else ""
        is_text = get_origin(hint) is Literal and isinstance(value, str)
        error = FxpruneValueError if is_text else FxpruneTypeError
        raise error(f"{taker} takes {_text(hint)} for {name}, got {type(value).__name__}{shown}")


@functools.cache
def _kinds(function: Callable[..., Any]) -> tuple[tuple[str, Any, Callable[[Any], bool]], ...]:
    """Return the parameters of ``function``: name, annotation, and what says whether a value is of that kind.

    Annotations that only a type checker knows are left out.
    """
    found = {}
    function = inspect.unwrap(function)
    for name, parameter in inspect.signature(function).parameters.items():
        try:
            hint = parameter.annotation  # text, where the module has it so
            found[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
        except NameError:
            continue
    return tuple((name, hint, _test(hint)) for name, hint in found.items() if hint is not parameter.empty)


@functools.cache
def option_kinds(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, as :func:`require_kind` takes them; none of other classes."""
    if not is_dataclass(kind):
        return {}
    try:
        hints = get_type_hints(kind)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(kind)}


@functools.cache
def _test(hint: Any) -> Callable[[Any], bool]:
    """Return what says whether a value is of the kind ``hint``; what is no kind that is known here fits."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        tests = [_test(one) for one in of]
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: value in of
    if hint in _NUMBERS:
        kinds = _NUMBERS[hint][0]
        return lambda value: isinstance(value, kinds) and not isinstance(value, bool)
    if hint is None:
        return lambda value: value is None
    kind = origin or hint
    if kind is Callable:
        return callable
    if hint is Any or not isinstance(kind, type):
        return lambda value: True
    if kind is Sequence:
        part = _test(Any if get_origin(of[0]) is Literal else of[0])
        return lambda value: (
            isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(part(one) for one in value)
        )
    if kind is Mapping:
        entry = _test(of[1])
        return lambda value: isinstance(value, Mapping) and all(entry(one) for one in value.values())
    return lambda value: isinstance(value, kind)


def _text(hint: Any) -> str:
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_text(one) for one in of))
    if origin is Literal:
        return " or ".join(map(repr, of))
    if hint in _NUMBERS:
        return _NUMBERS[hint][1]
    if origin in (Sequence, Mapping):
        return f"a {origin.__name__.lower()} of {_text(of[-1])}"
    return "None" if hint in (None, type(None)) else f"a {getattr(origin or hint, '__name__', hint)}"
