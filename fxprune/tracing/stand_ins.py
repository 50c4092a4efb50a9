"""What stands for values while a model is traced with them at hand, and how Python's builtins get on with it."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune.tracing.patches import patched
from fxprune.tracing.recording import RecordingProxy, RecordingTracer, is_instance

# These take no tensor, so that torch cannot see a stand-in among their arguments; ``tensor`` and its like would even
# read it as raw memory.
_FACTORIES = (
    *("arange", "linspace", "logspace", "eye", "zeros", "ones", "full", "empty"),
    *("tensor", "as_tensor", "scalar_tensor", "finfo", "iinfo", "tril_indices", "triu_indices"),
)


class KnowingTracer(RecordingTracer):
    """A tracer that knows the values of nodes on the example inputs."""

    values: dict[fx.Node, Any]


class ValueProxy(RecordingProxy):
    """Stands for a value that is known on the example inputs."""

    tracer: KnowingTracer

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") and k.endswith("__"):
            raise AttributeError(k)
        self.refuse_autograd_state(k)
        if (fixed := self.tracer.fixed(self, k)) is not None:
            return fixed
        found = getattr(self.tracer.values[self.node], k)  # raises AttributeError as the value itself would
        if callable(found) and not isinstance(found, nn.Module):
            return lambda *args, **kwargs: self.tracer.create_proxy("call_method", k, (self, *args), kwargs)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def keys(self) -> Any:
        """Return the keys of the mapping that this stands for (torch.fx's Proxy has a method of this name)."""
        return self.__getattr__("keys")()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


@contextmanager
def builtins_see_values(tracer: RecordingTracer) -> Iterator[None]:
    """While tracing, let ``isinstance`` see the values behind stand-ins, and record ``max``, ``torch.zeros``, ....

    ``isinstance`` is replaced rather than answered by a ``__class__`` property, which would deceive torch's C++ code
    too: it would then read a stand-in's memory as a tensor's.
    """

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if _holds_proxy((args, kwargs)):
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return call

    def of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
        record = recorded(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > 1 and not kwargs and any(type(a) is ValueProxy for a in args):
                return record(*args)
            return function(*args, **kwargs)

        return call

    patches: list[tuple[Any, str, Any]] = [
        (builtins, "isinstance", is_instance),
        (fx._symbolic_trace, "_create_wrapped_func", recorded),  # torch.fx's own takes no containers of stand-ins
    ]
    patches += [(builtins, name, of_numbers(getattr(builtins, name))) for name in ("max", "min")]
    patches += [(torch, name, recorded(getattr(torch, name))) for name in _FACTORIES]
    with patched(patches):
        yield


def _holds_proxy(value: Any) -> bool:
    if type(value) is ValueProxy:
        return True
    if type(value) in (list, tuple):
        return any(_holds_proxy(part) for part in value)
    return type(value) is dict and any(_holds_proxy(part) for part in value.values())
