"""Keywords as they were before they went together in one value; they go on until 0.2: delete this file then."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneDeprecationWarning, FxpruneError

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_Function = Callable[_Params, _Result]
Makers = dict[str, Callable[..., Any]]


def old_targets(
    target_macs: float | None = None, target_params: float | None = None, target_memory: float | None = None
) -> Targets:
    """Return as one value what was three keywords."""
    return Targets(macs=target_macs, params=target_params, memory=target_memory)


def old_steps(steps: int) -> int:
    """Return what is called ``meet_after`` now."""
    return steps


def takes_old_names(
    **makers: Callable[..., Any],
) -> Callable[[_Function[_Params, _Result]], _Function[_Params, _Result]]:
    """Have a function take, for each keyword, those that a maker makes its value from: for ``plan`` those of Plan."""
    known = {old: new for new, maker in makers.items() for old in inspect.signature(maker).parameters}

    def decorate(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def taking(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            old = {one: known[one] for one in kwargs if one in known}
            if old:
                _rename(name, kwargs, old, makers)
            return function(*args, **kwargs)

        return taking

    return decorate


def _rename(taker: str, given: dict[str, Any], old: dict[str, str], makers: Makers) -> None:
    """Put the new names, of those in ``old`` by name, in the place of the old ones; warns once."""
    named = ", ".join(old)
    if twice := sorted(given.keys() & set(old.values())):
        raise FxpruneError(f"{taker} takes {twice[0]} or the old {named}, not both: leave the old out")
    new = {}
    for name, make in makers.items():
        if parts := {one: given.pop(one) for one, of in old.items() if of == name}:
            new[name] = make(**parts)
    advice = ", ".join(f"{name}={_shown(value)}" for name, value in new.items())
    warnings.warn(
        f"{named} of {taker} will go in fxprune 0.2: give {advice}", FxpruneDeprecationWarning, stacklevel=3
    )
    given |= new


def _shown(value: Any) -> str:
    """Return how ``value`` is written, as far as that is short."""
    if isinstance(value, (bool, int, float, str)):
        return repr(value)
    if not is_dataclass(value):
        return "..."
    own = {field.name: getattr(value, field.name) for field in fields(value)}
    parts = [f"{field.name}={_shown(own[field.name])}" for field in fields(value) if own[field.name] != field.default]
    package = type(value).__module__ if type(value).__module__.startswith("fxprune.training") else "fxprune"
    return f"{package}.{type(value).__name__}({', '.join(parts)})"
