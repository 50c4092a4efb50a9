"""Calls of the user's own ``autograd.Function``s are seen before their forward is: a graph keeps them whole.

Who imported ``apply`` has it already, so that what is replaced is what it calls: the forward of each such class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from torch import fx
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointFunction

from fxprune.facts.shapes import shape
from fxprune.ir.applied import Applied
from fxprune.ir.nodes import called_module

Record = Callable[[type[Function], tuple[Any, ...]], Any]


def patches(record: Record) -> list[tuple[Any, str, Any]]:
    """Return what to replace, as (where, name, by what), so that ``record`` gets calls with stand-ins.

    It is called with the class and the arguments of ``apply``, and returns what that shall return.
    """
    found: list[tuple[Any, str, Any]] = []
    kinds: list[Any] = [CheckpointFunction, *_subclasses(Function)]
    for kind in kinds:
        split = getattr(kind, "setup_context", None) is not Function.setup_context
        found.append((kind, "forward", staticmethod(_recorded(kind, record, 0 if split else 1))))
        if split:
            found.append((kind, "setup_context", staticmethod(_unless_recorded(kind.setup_context))))
    return found


def _subclasses(kind: type[Function]) -> Iterator[type[Function]]:
    """Yield the classes that derive from ``kind``, but for torch's own, which its layers call."""
    for one in kind.__subclasses__():
        if not one.__module__.startswith("torch."):
            yield one
            yield from _subclasses(one)


def _recorded(kind: type[Function], record: Record, before: int) -> Callable[..., Any]:
    """Return the forward of ``kind`` while tracing; ``before`` its arguments there is a context, or nothing."""
    forward = kind.forward

    @wraps(forward)  # arguments by keyword are put in their places by its signature
    def recorded(*given: Any) -> Any:
        arguments = given[before:]
        return record(kind, arguments) if _holds_stand_in(arguments) else forward(*given)

    return recorded


def _unless_recorded(setup_context: Callable[..., Any]) -> Callable[..., None]:
    def set_up(context: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if not _holds_stand_in(inputs):
            setup_context(context, inputs, output)

    return set_up


def _holds_stand_in(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, fx.Proxy) for value in values)


def hold_to_shapes(graph_module: fx.GraphModule) -> None:
    """Have the functions that kept the shape of what they were given, in all calls, keep it for every input."""
    calls: dict[Applied, list[bool]] = {}
    for node in graph_module.graph.find_nodes(op="call_module", sort=False):
        module = called_module(node)
        if isinstance(module, Applied):
            source = node.args[0] if node.args else None
            kept = isinstance(source, fx.Node) and shape(node) is not None and shape(node) == shape(source)
            calls.setdefault(module, []).append(kept)
    for module, kept_each in calls.items():
        module.keeps_shape = all(kept_each)
