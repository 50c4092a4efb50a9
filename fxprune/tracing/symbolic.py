"""Tier 1: torch.fx's symbolic tracing, with what it loses put back.

``x += y`` is recorded as what it is, arguments may be nests of tensors, a change of the grad mode in forward stays in
the graph.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils.checkpoint import CheckpointFunction

from fxprune.applied import LAYER, Applied
from fxprune.errors import TraceError, first_line
from fxprune.nests import PLAIN
from fxprune.operators import plain_number
from fxprune.tracing import autograd_functions
from fxprune.tracing.inputs import Argument, Call
from fxprune.tracing.notes import Assumption, assertion_message
from fxprune.tracing.source import current_frame, current_line, line_of_error

RANDOM_FACTORIES = ("rand", "randn", "randint", "randperm", "normal")
"""Functions of torch that take no tensor, and return another one in every call."""
_SET_GRAD: Any = torch._C._set_grad_enabled
_DEVICES = ("cpu", "cuda")
_INHERITED = object()
_OWN = ("node", "tracer")  # attributes of a stand-in itself
_FORWARDS = ("forward", "_conv_forward")  # what a layer of torch's own computes is here, if it was set on one layer


class RecordingProxy(fx.Proxy):
    """Records ``x += y`` as what it is: torch.fx's own Proxy loses that it writes into ``x``."""

    __array_ufunc__ = None  # NumPy's numbers leave sums and products with it to it

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = None, kwargs: Any = None) -> Any:
        """Record a call of ``orig_method``; torch.fx asks more of a function than those of torch.nn need."""
        if args and isinstance(args[0], cls) and getattr(orig_method, "__module__", "") == functional.__name__:
            return args[0].tracer.create_proxy("call_function", orig_method, args, kwargs or {})
        return super().__torch_function__(orig_method, types, args, kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse ``x.data = y`` and the like, which would change nothing but this stand-in."""
        if name not in _OWN and hasattr(torch.Tensor, name):
            raise TypeError(f"it sets {name} of a tensor, which a graph cannot")
        super().__setattr__(name, value)


def _in_place_operator(target: Any) -> Any:
    def record(self: RecordingProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(RecordingProxy, f"__i{_name}__", _in_place_operator(getattr(operator, f"i{_name}")))


@contextmanager
def patched(patches: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace attributes, given as (where, name, by what), inside."""
    before = [(home, name, vars(home).get(name, _INHERITED)) for home, name, _ in patches]
    try:
        for home, name, new in patches:
            setattr(home, name, new)
        yield
    finally:
        for home, name, original in before:
            delattr(home, name) if original is _INHERITED else setattr(home, name, original)


class SymbolicTracer(fx.Tracer):
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
        self.applied: dict[str, Applied] = {}
        self._failed_in: tuple[BaseException, str] | None = None
        self._grad_mode: tuple[bool, fx.Node | None] = (True, None)
        self._outer_autocast: list[bool] = []
        self._set_by_python = True
        self._thread = get_ident()
        self._running = False  # a node, to know its value: nothing is recorded

    def graph_of(self, model: nn.Module) -> fx.Graph:
        """Trace ``model``; raises TraceError with the source line and the path of the module that cannot be."""
        self._outer_autocast = [torch.is_autocast_enabled(device) for device in _DEVICES]
        try:
            with torch.enable_grad(), patched(self._patches()):
                graph = self.trace(model)
            for node in graph.find_nodes(op="call_module", sort=False) if self.applied else ():
                if (layer := self.applied.get(node.target)) is not None:
                    node.meta[LAYER] = layer
                    node.meta.setdefault("nn_module_stack", {})[node.target] = (node.target, Applied)
            graph._tracer_cls = None  # torch.load traces again, with any tracer: this one wants the call
            return graph
        except Exception as error:
            path = self._failed_in[1] if self._failed_in and self._failed_in[0] is error else ""
            source, reason = line_of_error(error), first_line(error)
            message = f"{type(model).__name__} cannot be traced: {source}: {reason}"
            raise TraceError(message, path=path, reason=reason, source=source) from error

    @property
    def is_running(self) -> bool:
        """Whether a node is being run, to know its value: nothing is recorded then."""
        return self._running

    def _patches(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced while a model is traced, as (where, name, by what)."""
        return [
            (torch._C, "_set_grad_enabled", self._set_grad_enabled),
            *((torch, name, self._recorded(getattr(torch, name))) for name in RANDOM_FACTORIES),
            *autograd_functions.patches(self._applied),
        ]

    def _recorded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._running or self._is_elsewhere():
                return function(*args, **kwargs)
            return self.create_proxy("call_function", function, args, kwargs)

        return call

    def _applied(self, function: type[torch.autograd.Function], arguments: tuple[Any, ...]) -> Any:
        """Record a call of an autograd.Function, in the grad mode around it: C++ switches that off inside."""
        _SET_GRAD(self._set_by_python)
        try:
            if function is CheckpointFunction:  # which computes what its first argument does, and saves memory
                return arguments[0](*arguments[2:])
            return self.create_proxy("call_module", self._layer_of(function), arguments, {})
        except NotImplementedError as error:
            where = f"{current_line()}: it calls an autograd.Function"
            raise TraceError(f"{where} with what a graph cannot hold: {first_line(error)}") from error
        finally:
            _SET_GRAD(False)

    def _layer_of(self, function: type[torch.autograd.Function]) -> str:
        """Return the name under which ``function`` is a layer of the graph; it becomes none of the root."""
        name = function.__name__
        while hasattr(self.root, name) or self.applied.setdefault(name, Applied(function)).function is not function:
            name += "_"
        return name

    def _set_grad_enabled(self, enabled: bool) -> None:
        """Take note that Python switches the grad mode: what C++ switches it for is an autograd.Function."""
        if not self._is_elsewhere():
            self._set_by_python = enabled
        _SET_GRAD(enabled)

    def _is_elsewhere(self) -> bool:
        """Say whether another thread runs this, which has nothing to do with what is traced."""
        return get_ident() != self._thread

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return the stand-in for a parameter or buffer."""
        return attr_val if self._is_elsewhere() else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the stand-in for what ``node`` computes."""
        return RecordingProxy(node, self)

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
        kind = type(value)
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
        if self._is_elsewhere():
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
        if isinstance(a, torch.Tensor) and (a.grad_fn is not None or isinstance(a, FakeTensor)):
            raise TraceError(f"{current_line()}: it uses a tensor that another call computed")
        number = plain_number(a)
        return super().create_arg(a) if number is a else number

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Record a node; where the grad mode has changed since the last one, record that before it."""
        if kind not in ("placeholder", "output") and [torch.is_autocast_enabled(d) for d in _DEVICES] != (
            self._outer_autocast
        ):
            raise TraceError(f"{current_line()}: it computes under autocast")
        self._follow_grad_mode(torch.is_grad_enabled() or kind == "output")
        node = self.graph.create_node(kind, target, args, kwargs, name, None)
        if self.module_stack:
            node.meta["nn_module_stack"] = OrderedDict(self.module_stack)
        node.meta["stack_trace"] = current_frame()  # torch.fx would take and format the whole stack, for each node
        return node

    def _follow_grad_mode(self, enabled: bool) -> None:
        """Record ``with torch.no_grad():``; its end gives back the mode that the caller had at its start."""
        if not enabled and self._set_by_python:
            raise TraceError(f"{current_line()}: it calls an autograd.Function, whose backward a graph would lose")
        was_enabled, outer = self._grad_mode
        if enabled == was_enabled:
            return
        if outer is None:
            outer = self.graph.call_function(torch.is_grad_enabled, ())
            self.graph.call_function(_SET_GRAD, (enabled,))
            self._grad_mode = (enabled, outer)
        else:
            self.graph.call_function(_SET_GRAD, (outer,))
            self._grad_mode = (True, None)
