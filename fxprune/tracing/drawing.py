"""Random numbers that Python draws in forward: a graph would keep what was drawn while it was traced."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

from fxprune.tracing.recording import RecordingTracer

DRAWS = "it draws random numbers by Python, which a graph would do once and for all; draw them by torch"
# All other methods of random.Random call these two.
_PYTHONS = ((random.Random, "random"), (random.Random, "getrandbits"), (random, "random"), (random, "getrandbits"))


def refusing_to_draw(tracer: RecordingTracer) -> list[tuple[Any, str, Any]]:
    """Return what is replaced while a model is traced, so that who draws is refused, whichever way it goes then."""
    here = threading.get_ident()

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def draw(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == here and not tracer.is_running:
                tracer.refuse(DRAWS)
            return function(*args, **kwargs)

        return draw

    numpys = getattr(sys.modules.get("numpy"), "random", None)
    drawing = [(numpys, name) for name, value in vars(numpys).items() if _draws(value)] if numpys else []
    return [(home, name, refusing(getattr(home, name))) for home, name in (*_PYTHONS, *drawing)]


def _draws(value: Any) -> bool:
    """Say whether ``value`` is a method of NumPy's one global generator."""
    return type(getattr(value, "__self__", None)).__name__ == "RandomState" and value.__name__ != "get_state"


def states_of_random() -> list[Any]:
    """Return the states of the global generators of Python and NumPy; the net for who imported a function by name."""
    numpys = getattr(sys.modules.get("numpy"), "random", None)
    if numpys is None:
        return [random.getstate()]
    held = numpys.get_state(legacy=False)
    return [random.getstate(), held["state"]["key"].tobytes(), held["state"]["pos"], held["has_gauss"]]
