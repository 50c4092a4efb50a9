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

from fxprune.errors import TraceError, first_line
from fxprune.facts.shapes import shape
from fxprune.ir.applied import LAYER, Applied
from fxprune.ir.nodes import called_modules
from fxprune.tracing.recorded_grad_mode import RecordedGradMode
from fxprune.tracing.recording import RecordingTracer
from fxprune.tracing.source import current_line

Record = Callable[[type[Function], tuple[Any, ...]], Any]


class RecordedFunctions:
    """Records for one tracer the calls of autograd.Functions, each as a layer of the graph.

    Attributes:
        layers: by the name that each has in the graph; they become none of the model's.
    """

    def __init__(self, tracer: RecordingTracer, grad_mode: RecordedGradMode) -> None:
        self.layers: dict[str, Applied] = {}
        self._tracer = tracer
        self._grad_mode = grad_mode

    def patches(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced while a model is traced: the forward of each such class."""
        found: list[tuple[Any, str, Any]] = []
        kinds: list[Any] = [CheckpointFunction, *_subclasses(Function)]
        for kind in kinds:
            split = getattr(kind, "setup_context", None) is not Function.setup_context
            found.append((kind, "forward", staticmethod(_recorded(kind, self._record, 0 if split else 1))))
            if split:
                found.append((kind, "setup_context", staticmethod(_unless_recorded(kind.setup_context))))
        return found

    def _record(self, function: type[Function], arguments: tuple[Any, ...]) -> Any:
        """Record a call with the arguments of ``apply``, in the grad mode around it; return what that returns."""
        try:
            with self._grad_mode.around_function():
                if function is CheckpointFunction:  # which computes what its first argument does, and saves memory
                    return arguments[0](*arguments[2:])
                return self._tracer.create_proxy("call_module", self._name_of(function), arguments, {})
        except NotImplementedError as error:
            where = f"{current_line()}: it calls an autograd.Function"
            raise TraceError(f"{where} with what a graph cannot hold: {first_line(error)}") from error

    def _name_of(self, function: type[Function]) -> str:
        """Return the name under which ``function`` is a layer of the graph; it becomes none of the root."""
        name, root = function.__name__, self._tracer.root
        while hasattr(root, name) or self.layers.setdefault(name, Applied(function)).function is not function:
            name += "_"
        return name

    def note_layers(self, graph: fx.Graph) -> None:
        """Note on the nodes that call such layers which they are."""
        for node in graph.find_nodes(op="call_module", sort=False) if self.layers else ():
            if (layer := self.layers.get(str(node.target))) is not None:
                node.meta[LAYER] = layer
                node.meta.setdefault("nn_module_stack", {})[node.target] = (node.target, Applied)


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
    for node, module in called_modules(graph_module).items():
        if isinstance(module, Applied):
            source = node.args[0] if node.args else None
            kept = isinstance(source, fx.Node) and shape(node) is not None and shape(node) == shape(source)
            calls.setdefault(module, []).append(kept)
    for module, kept_each in calls.items():
        module.keeps_shape = all(kept_each)
