"""Keywords as they were before :class:`fxprune.Targets`, which go on working until 0.2; delete this file then."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_SHARES = {"target_macs": "macs", "target_params": "params", "target_memory": "memory"}
_STEPS = {"steps": "meet_after"}


def takes_old_names(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Have ``function`` take ``target_macs=`` and its like for ``targets``, and ``steps=`` for ``meet_after``."""
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def taking(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        if kwargs.keys() & (_SHARES | _STEPS).keys():
            _rename(name, kwargs)
        return function(*args, **kwargs)

    return taking


def _rename(taker: str, given: dict[str, Any]) -> None:
    """Put the new names in the place of the old ones; warns once."""
    old = [name for name in given if name in _SHARES or name in _STEPS]
    new: dict[str, Any] = {_STEPS[name]: given[name] for name in old if name in _STEPS}
    advice = [f"{name}={value}" for name, value in new.items()]
    shares = {_SHARES[name]: given[name] for name in old if name in _SHARES}
    if shares:
        new["targets"] = Targets(**shares)
        advice.insert(0, f"targets=fxprune.Targets({', '.join(f'{name}={share}' for name, share in shares.items())})")
    if twice := sorted(given.keys() & new.keys()):
        raise FxpruneError(f"{taker} takes {twice[0]} or the old {', '.join(old)}, not both: leave the old out")
    message = f"{', '.join(old)} of {taker} will go in fxprune 0.2: give {', '.join(advice)}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    for name in old:
        del given[name]
    given |= new
