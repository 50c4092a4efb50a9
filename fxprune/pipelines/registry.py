"""Passes by name, and the text form of pipelines: ``insert-resconv{shortcut=1.0},fuse-resconv``.

An option that takes several texts is given again for each: ``insert-resconv{keep=layer4,keep=*.conv3}``.

Passes of other packages join through the entry-point group ``fxprune.passes``.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Sequence

from fxprune.errors import FxpruneError, PassSpecError, did_you_mean
from fxprune.joined import with_joined
from fxprune.rewriting.contract import Pass

GROUP = "fxprune.passes"
_ITEM = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


@functools.cache
def known_passes() -> dict[str, type[Pass]]:
    """Return every pass class by its name, ours and those of installed packages, sorted."""
    from fxprune import passes

    own = {getattr(passes, name).name: getattr(passes, name) for name in passes.__all__}
    return with_joined(own, GROUP, "pass")


def options_of(kind: type[Pass]) -> dict[str, dataclasses.Field[object]]:
    """Return the options of a pass: the dataclass fields that it takes, by name."""
    return {f.name: f for f in dataclasses.fields(kind) if f.init} if dataclasses.is_dataclass(kind) else {}


def parse_passes(text: str) -> list[Pass]:
    """Return the passes that ``text`` names, ready to run.

    Raises PassSpecError for an unknown pass or option (suggests the nearest), or a value of the wrong type.
    """
    passes: list[Pass] = []
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise PassSpecError(f"cannot read passes from {text[position:]!r}; write name{{option=value}},name")
        passes.append(_make(match.group(1), match.group(2) or ""))
        position = match.end()
    if not passes:
        raise PassSpecError("no passes given; `fxprune passes` lists them")
    return passes


def _make(name: str, options: str) -> Pass:
    known = known_passes()
    if name not in known:
        raise PassSpecError(f"unknown pass {name!r}{did_you_mean(name, list(known))}; `fxprune passes` lists them")
    fields = options_of(known[name])
    types_of = typing.get_type_hints(known[name])
    values: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in options.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        key = key.replace("-", "_")
        if key not in fields:
            known_options = ", ".join(fields) or "none"
            raise PassSpecError(
                f"pass {name} has no option {key!r}{did_you_mean(key, list(fields))}; its options: {known_options}"
            )
        if not equals:
            raise PassSpecError(f"option {key} of pass {name} has no value; write {key}=...")
        if types_of[key] == Sequence[str]:  # of several, each is given again
            values[key] = (*typing.cast(tuple[str, ...], values.get(key, ())), value.strip("'\""))
        else:
            values[key] = _typed(name, key, value, types_of[key])
    try:
        return known[name](**values)
    except FxpruneError:
        raise
    except (TypeError, ValueError) as error:
        raise PassSpecError(f"pass {name}: {error}") from error


def _typed(name: str, key: str, text: str, wanted: object) -> object:
    """Read ``text`` as the type of an option: a bool, a number, a string of a fixed set, or None."""
    is_union = typing.get_origin(wanted) in (typing.Union, types.UnionType)
    kinds = typing.get_args(wanted) if is_union else (wanted,)
    choices = [one for kind in kinds if typing.get_origin(kind) is typing.Literal for one in typing.get_args(kind)]
    if choices or str in kinds:
        value: object = text.strip("'\"")
        if choices and value not in choices:
            raise PassSpecError(f"option {key} of pass {name} is one of {', '.join(map(str, choices))}; got {text!r}")
        return value
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        value = float(value)
    if not any(kind is type(value) for kind in kinds):
        expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise PassSpecError(f"option {key} of pass {name} is a {expected}; got {text!r}")
    return value
