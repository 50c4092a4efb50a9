"""Tier 1: torch.fx's symbolic tracing, with what it loses put back.

``x += y`` is recorded as what it is, arguments may be nests of tensors, a change of the grad mode in forward stays in
the graph.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from threading import get_ident
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from fxprune.errors import TraceError, first_line
from fxprune.ir.autocast import autocast_kept
from fxprune.ir.module_tree import every_module, every_tensor
from fxprune.ir.pytrees import PLAIN
from fxprune.ir.trace_notes import Assumption, assertion_message
from fxprune.ops.operators import plain_number
from fxprune.tracing.autograd_functions import RecordedFunctions
from fxprune.tracing.drawing import DRAWS, refusing_to_draw, states_of_random
from fxprune.tracing.inputs import Argument, Call
from fxprune.tracing.parts_written import parts_written
from fxprune.tracing.patches import namespaces_of, patched, shadowed
from fxprune.tracing.recorded_autocast import RecordedAutocast
from fxprune.tracing.recorded_calls import recorded_calls
from fxprune.tracing.recorded_grad_mode import RecordedGradMode
from fxprune.tracing.recording import RecordingProxy, RecordingTracer, TypeThatSees, is_instance
from fxprune.tracing.shown_text import is_shown
from fxprune.tracing.source import current_frame, current_line, line_of_error

_SIZES = frozenset(("shape", "size", "ndim", "dim", "numel", "nelement"))
_FORWARDS = ("forward", "_conv_forward")  # what a layer of torch's own computes is here, if it was set on one layer


class SymbolicTracer(RecordingTracer):
    """Traces one call of a module.

    Args:
        call: the arguments that become the graph's inputs.
        opaque: paths of modules that become one call each.
    """

    def __init__(self, call: Call, opaque: Collection[str] = ()) -> None:
        super().__init__()
        self.call = call
        self.opaque = opaque
        self.assumptions: list[Assumption] = []
        self._failed_in: tuple[BaseException, str] | None = None
        self._refusals: list[TraceError] = []
        self._types: dict[fx.Node, type] = {}
        self._state: dict[int, tuple[str, torch.Tensor]] = {}  # parameters and buffers, by id, with their paths
        self._held: dict[fx.Node, torch.Tensor] = {}  # what reads of them read
        self._grad_mode = RecordedGradMode(self)
        self.functions = RecordedFunctions(self, self._grad_mode)
        self._autocast = RecordedAutocast(self)
        self._thread = get_ident()
        self._running = False  # a node, to know its value: nothing is recorded

    def graph_of(self, model: nn.Module) -> fx.Graph:
        """Trace ``model``; raises TraceError with the source line and the path of the module that cannot be."""
        self._autocast.remember()
        drawing = refusing_to_draw(self)
        tensors = every_tensor(model, "_buffers", "_parameters")
        self._state = {id(tensor): (path, tensor) for path, tensor in tensors.items()}
        spaces = namespaces_of(every_module(model))
        names = {"isinstance": is_instance, "type": TypeThatSees}
        bound = {id(vars(home).get(name)): new for home, name, new in drawing}
        replaced = self._patches() + drawing
        drawn = states_of_random()
        try:
            with autocast_kept(), torch.enable_grad(), patched(replaced), shadowed(names, spaces, bound):
                graph = self.trace(model)
            self.functions.note_layers(graph)
            graph._tracer_cls = None  # torch.load traces again, with any tracer: this one wants the call
            if not self._refusals and states_of_random() != drawn:
                self.refuse(DRAWS)
            if self._refusals:
                raise self._refusals[0]  # which forward has caught
            return graph
        except Exception as error:
            first = self._refusals[0] if self._refusals else error
            path = self._failed_in[1] if self._failed_in and self._failed_in[0] is error else ""
            source, reason = line_of_error(error), first_line(first)
            if isinstance(first, TraceError) and first.source is not None:
                path, source = first.path or "", first.source
            message = f"{type(model).__name__} cannot be traced: {source}: {reason}"
            raise TraceError(message, path=path, reason=reason, source=source) from first

    def _patches(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced while a model is traced, as (where, name, by what)."""
        return [
            *self._grad_mode.patches(),
            (torch, "isinstance", is_instance),  # torch.is_tensor asks it
            *self._autocast.patches(),
            *recorded_calls(self),
            *self.functions.patches(),
        ]

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread runs this, which has nothing to do with what is traced."""
        return get_ident() != self._thread

    def refuse(self, reason: str) -> NoReturn:
        """Raise TraceError; it counts where forward catches it too: which way that goes is not known."""
        path = next(reversed(self.module_stack.values()))[0] if self.module_stack else ""
        self._refusals.append(TraceError(reason, path=path, reason=reason, source=current_line()))
        raise self._refusals[-1]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the stand-in for what ``node`` computes."""
        return RecordingProxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return the stand-in for a parameter or a buffer; norms count their batches for themselves."""
        path, _ = self._state.get(id(attr_val), (None, None))
        if path is None or self._running or self.is_elsewhere or attr == "num_batches_tracked":
            return attr_val
        if path not in parameter_proxy_cache:
            proxy = parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
            self._held[proxy.node], self._types[proxy.node] = attr_val, type(attr_val)
        return parameter_proxy_cache[path]

    def fixed(self, proxy: RecordingProxy, name: str) -> Any:
        """Return the attribute ``name`` of a parameter or a buffer if it is one of its sizes, which do not change."""
        tensor = self._held.get(proxy.node) if name in _SIZES else None
        return None if tensor is None else getattr(tensor, name)

    def type_of(self, proxy: RecordingProxy) -> type:
        """Return the type of what ``proxy`` stands for; raises TraceError where it is not known."""
        kind = self._types.get(proxy.node) or self._type_returned(proxy.node)
        return kind or self.refuse("it asks what type a value has")

    def _type_returned(self, node: fx.Node) -> type | None:
        if node.op != "call_module":
            return None
        module = self.root.get_submodule(str(node.target))
        returned = type(module).forward.__annotations__.get("return")
        return torch.Tensor if returned is torch.Tensor and type(module).__module__.startswith("torch.nn") else None

    def is_of(self, proxy: RecordingProxy, kinds: Any) -> bool:
        """Say whether what ``proxy`` stands for is of one of ``kinds``, as ``isinstance`` takes them."""
        try:
            return issubclass(self.type_of(proxy), kinds)
        except TypeError:  # torch.FloatTensor and the like are no types
            self.refuse("it asks what type a value has")

    def to_bool(self, obj: Any) -> bool:
        """Say which way a branch goes; raises TraceError."""
        self.refuse("the way it goes depends on a value")

    def iter(self, obj: Any) -> Iterator[Any]:
        """Return the parts of a parameter or a buffer; raises TraceError for other values."""
        if obj.node in self._held:
            return iter([obj[index] for index in range(len(obj))])
        self.refuse("it iterates over a value")

    def unpacked(self, proxy: Any, count: int) -> Iterator[Any]:
        """Return the parts that ``proxy`` is unpacked into, asserted to be ``count`` if it does not say so."""
        if parts_written(proxy.node) == count:
            return iter([proxy[index] for index in range(count)])
        size = self.create_proxy("call_function", len, (proxy,), {})
        self._assume(operator.eq, size, count, current_line(), f"{proxy.node.name} has {count} entries")
        return iter([proxy[index] for index in range(count)])

    def length(self, proxy: RecordingProxy) -> int:
        """Return the length of a parameter or a buffer; raises TraceError for other values."""
        if proxy.node in self._held:
            return len(self._held[proxy.node])
        self.refuse("it asks a value for its length")

    def hashed(self, proxy: RecordingProxy) -> int:
        """Return the hash of a value: that of a tensor is its identity."""
        if issubclass(self.type_of(proxy), torch.Tensor):
            return object.__hash__(proxy)
        return hash(self.concrete(proxy))

    def concrete(self, proxy: Any) -> Any:
        """Return the number that ``proxy`` stands for; raises TraceError."""
        self.refuse("it asks a value for its number")

    def told(self, proxy: RecordingProxy, frame: FrameType) -> Any:
        """Return what the text of ``proxy`` is made of, which ``frame`` asks for; raises TraceError if it decides."""
        return proxy.node.name if is_shown(frame) else self.refuse("it asks a value for its text")

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Make an input of each argument of the call; what the call leaves out takes its default."""
        inputs = tuple(self._input(argument) for argument in self.call.arguments)
        args, kwargs = self.call.arrange(inputs)
        forward: Any = self.root.forward
        return lambda: forward(*args, **kwargs), []

    def _input(self, argument: Argument) -> Any:
        proxy = self.create_proxy("placeholder", argument.name, (), {})
        self.placed(proxy.node, argument.value)
        if argument.value is None:
            self._assume(operator.is_, proxy, None, f"argument {argument.name}", f"{argument.name} is None")
            return None  # a Proxy never is
        return self._unpacked(proxy, argument.value, argument.name)

    def _unpacked(self, proxy: Any, value: Any, name: str) -> Any:
        """Return a container of stand-ins for a container of inputs: its structure is the example's."""
        kind = self._types[proxy.node] = type(value)
        if kind not in (list, tuple) and not isinstance(value, dict):
            return proxy
        size = self.create_proxy("call_function", len, (proxy,), {})
        self._assume(operator.eq, size, len(value), f"argument {name}", f"{name} has {len(value)} entries")
        if isinstance(value, dict):
            entries = {key: self._unpacked(proxy[key], part, f"{name}[{key!r}]") for key, part in value.items()}
            return entries if kind is dict else kind(entries)
        return kind([self._unpacked(proxy[i], part, f"{name}[{i}]") for i, part in enumerate(value)])

    def _assume(self, test: Callable[..., Any], proxy: Any, other: Any, source: str, what: str) -> None:
        """Put an assertion that ``test(proxy, other)`` holds into the graph."""
        condition = self.create_proxy("call_function", test, (proxy, other), {})
        self.assert_node(condition.node, source, what)

    def assert_node(self, condition: fx.Node, source: str, what: str) -> None:
        """Put an assertion of ``condition`` into the graph and note it as an assumption."""
        message = assertion_message(source, what)
        node = self.create_node("call_function", torch._assert, (condition, message), {})
        self.assumptions.append(Assumption(source, what, node.name))

    def placed(self, node: fx.Node, value: Any) -> None:
        """Take note of the value that an input has in the example."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module is called as one node: torch's own layers, as they are, and opaque modules."""
        is_own = super().is_leaf_module(m, module_qualified_name)
        return (is_own and vars(m).keys().isdisjoint(_FORWARDS)) or module_qualified_name in self.opaque

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a module call, and remember in which module's own forward an error arose."""
        if self.is_elsewhere:
            return forward(*args, **kwargs)
        if not args and kwargs.keys() == {"input"} and type(m).__module__.startswith("torch.nn"):
            args, kwargs = (kwargs["input"],), {}  # analyses and passes look for it there
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            path = self.path_of_module(m)
            if not self.is_leaf_module(m, path) and (self._failed_in is None or self._failed_in[0] is not error):
                self._failed_in = (error, path)
            raise

    def create_arg(self, a: Any) -> Any:
        """Lower a value to a graph argument: what most arguments are is told apart first."""
        kind = type(a)
        if kind in PLAIN:
            return a
        if kind is tuple:
            return tuple([self.create_arg(part) for part in a])
        if kind is dict and not a:
            return a
        if isinstance(a, fx.Proxy):
            return a.node
        if kind is fx.Node:
            return a
        if isinstance(a, torch.Tensor) and (a.grad_fn is not None or isinstance(a, FakeTensor)):
            raise TraceError(f"{current_line()}: it uses a tensor that another call computed")
        number = plain_number(a)
        return super().create_arg(a) if number is a else number

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Record a node; where the grad mode has changed since the last one, record that before it."""
        if kind not in ("placeholder", "output"):
            self._autocast.require_recorded()
        self._grad_mode.follow(torch.is_grad_enabled() or kind == "output")
        node = self.graph.create_node(kind, target, (), kwargs, name, None)
        node.args = args  # given above, torch.fx would look through them for symbolic numbers: a third of the time
        if self.module_stack:
            node.meta["nn_module_stack"] = OrderedDict(self.module_stack)
        node.meta["stack_trace"] = current_frame()  # torch.fx would take and format the whole stack, for each node
        return node

    def record_switch(self, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        """Record a call that switches what later nodes do, and was made already; return its node."""
        self._grad_mode.follow(torch.is_grad_enabled())
        node = self.graph.call_function(function, tuple(self.create_arg(a) for a in args))
        if self.module_stack:
            node.meta["nn_module_stack"] = OrderedDict(self.module_stack)
        self._autocast.remember()
        return node

    def known(self, value: Any) -> Any:
        """Return ``value``, or what it stands for; raises TraceError where that is not known."""
        return self.refuse("it gives a value to autocast") if isinstance(value, fx.Proxy) else value

    @property
    def is_running(self) -> bool:
        """Whether a node is being run, to know its value: nothing is recorded then."""
        return self._running
