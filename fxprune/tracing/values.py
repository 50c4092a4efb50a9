"""Tier 2: tracing with the example's values at hand.

Every node is run on fake tensors as it is recorded. A Python branch on a size, a dtype or a device then takes the
example's way, and an assertion in the graph checks that it is right; sizes used as data stay symbolic.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

from fxprune.errors import TraceError, first_line
from fxprune.facts.effects import is_foreign
from fxprune.ir.copies import copy_module
from fxprune.ir.interpreter import plain
from fxprune.ir.module_tree import evaluating, has_hooks, runs_own_code
from fxprune.ir.node_targets import attribute
from fxprune.ir.pytrees import map_tensors, tensors_in, version_of
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.ops.operators import INFIX, MODE_QUESTIONS
from fxprune.tracing.inputs import Call
from fxprune.tracing.parts_written import parts_written
from fxprune.tracing.recording import RecordingProxy
from fxprune.tracing.shown_text import is_shown
from fxprune.tracing.source import current_line
from fxprune.tracing.stand_ins import KnowingTracer, ValueProxy, builtins_see_values
from fxprune.tracing.symbolic import SymbolicTracer

# How many parts these return depends on sizes.
_SPLITTING = {
    *(torch.split, torch.chunk, torch.unbind, torch.tensor_split, torch.hsplit, torch.vsplit, torch.dsplit),
    *("split", "chunk", "unbind", "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes"),
}


class ValueTracer(SymbolicTracer, KnowingTracer):
    """Traces one call of a module on the example's values.

    Args:
        call: the arguments that become the graph's inputs, with their example values.
        opaque: paths of modules that become one call each.
        outputs: what each opaque module returned, call by call, in a real run.
    """

    def __init__(
        self, call: Call, opaque: Collection[str] = (), outputs: Mapping[str, list[Any]] | None = None
    ) -> None:
        super().__init__(call, opaque)
        self.values: dict[fx.Node, Any] = {}
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._outputs = {path: iter(results) for path, results in (outputs or {}).items()}
        self._undecidable: dict[fx.Node, str] = {}  # why no way may be chosen by a value, for those of their own kind
        self._assumed: set[tuple[fx.Node, Any]] = set()
        self._fixed: set[fx.Node] = set()  # an assertion says which value they have

    def graph_of(self, model: nn.Module) -> fx.Graph:
        """Trace ``model``; raises TraceError with the source line and the path of the module that cannot be."""
        with builtins_see_values(self), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of runs on fake tensors; a real run gives the model's own
            graph = super().graph_of(model)
        for node in reversed(list(graph.nodes)):
            bookkeeping = not tensors_in(self.values.get(node)) and node.op in ("call_function", "call_method")
            if bookkeeping and not node.users and not node.is_impure():
                graph.erase_node(node)
        return graph

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the stand-in for what ``node`` computes."""
        return ValueProxy(node, self)

    def placed(self, node: fx.Node, value: Any) -> None:
        """Take the example's value, as a fake tensor, for that of an input."""
        self.values[node] = map_tensors(value, self._mode.from_tensor)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record a node and return the stand-in for its value: a container of them where it is a container."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind in ("placeholder", "output"):
            return proxy
        return self._presented(proxy, self.values[proxy.node], target in _SPLITTING)

    def _presented(self, proxy: Any, value: Any, is_split: bool) -> Any:
        if value is None:
            return None
        if isinstance(value, torch.Size) or is_split:
            return proxy
        if isinstance(value, dict):
            entries = [(key, proxy[key]) for key in value]
            return dict(entries) if type(value) is dict else type(value)(entries)
        if isinstance(value, (tuple, list)):
            parts = [proxy[index] for index in range(len(value))]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return proxy

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Record a node and run it on the values of its inputs."""
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind not in ("placeholder", "output"):
            if kind == "call_function" and getattr(target, "__name__", "") in MODE_QUESTIONS:
                self._undecidable[node] = f"the way it goes depends on torch.{target.__name__}()"
            for source in node.all_input_nodes:
                if source in self._undecidable:
                    self._undecidable[node] = self._undecidable[source]
            try:
                self.values[node] = self.run_recorded_node(node)
            except Exception as error:  # forward may catch it: what it does then depends on whether this fails
                path = next(reversed(self.module_stack.values()))[0] if self.module_stack else ""
                reason = first_line(error)
                self._refusals.append(TraceError(reason, path=path, reason=reason, source=current_line()))
                raise
        return node

    def run_recorded_node(self, node: fx.Node) -> Any:
        """Return what ``node`` computes from the values of its inputs."""
        args, kwargs = plain(fx.map_arg((node.args, node.kwargs), self.values.__getitem__))
        if node.op == "get_attr":
            with self._really():
                return attribute(self.root, str(node.target))
        if node.op == "call_module" and str(node.target) in self._outputs:
            self._undecidable[node] = "the way it goes depends on what an opaque module returned"
            return map_tensors(next(self._outputs[str(node.target)]), self._mode.from_tensor)
        with self._really(), self._mode, torch.no_grad():
            module = self._module_at(str(node.target)) if node.op == "call_module" else None
            if node.target is functional.batch_norm or (isinstance(module, NORM_CLASSES) and not has_hooks(module)):
                normalized: Any = args[0]
                return torch.empty_like(normalized)  # fake tensors take 10 ms for what is the shape of the input
            if node.op == "call_module":
                assert module is not None
                module = (
                    copy_module(module) if runs_own_code(module) else module
                )  # hooks, say, that keep what they see
                with evaluating(module):
                    return module(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            function: Any = node.target
            inputs = (
                [(tensor, version_of(tensor)) for tensor in tensors_in((args, kwargs))] if is_foreign(node) else []
            )
            value = function(*args, **kwargs)
            if any(version_of(tensor) != version for tensor, version in inputs):
                raise TraceError(f"{function.__name__} writes into its arguments")
            return value

    def _module_at(self, target: str) -> nn.Module:
        return self.functions.layers.get(target) or self.root.get_submodule(target)

    @contextmanager
    def _really(self) -> Iterator[None]:
        """Let calls of modules and reads of parameters through while a node runs."""
        before, self._running = self._running, True
        try:
            yield
        finally:
            self._running = before

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a module call, or run it where a node is being run."""
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    def known(self, value: Any) -> Any:
        """Return ``value``, or what it stands for in the example; nothing is assumed."""
        return self.values[value.node] if issubclass(type(value), RecordingProxy) else value

    def type_of(self, proxy: RecordingProxy) -> type:
        """Return the type of what ``proxy`` stands for; nothing is assumed, since values keep their types."""
        kind = type(self.values[proxy.node])
        return torch.Tensor if kind is FakeTensor else kind

    def iter(self, obj: Any) -> Iterator[Any]:
        """Iterate over what has the length that it has in the example, which is asserted."""
        return iter([obj[index] for index in range(len(obj))])

    def unpacked(self, proxy: Any, count: int) -> Iterator[Any]:
        """Iterate as anything does: Python compares the length."""
        return self.iter(proxy)

    def length(self, proxy: RecordingProxy) -> int:
        """Return the length in the example, asserted but for parameters, buffers, and parts of written sizes."""
        if proxy.node in self._held:
            return super().length(proxy)
        parts = parts_written(proxy.node)
        if parts is not None:
            return parts
        return int(self.concrete(self.create_proxy("call_function", len, (proxy,), {})))

    def to_bool(self, obj: Any) -> bool:
        """Take the example's way at a branch, and assert that it is the way; raises TraceError for a tensor."""
        value = self._decidable(obj)
        taken = bool(value)
        if self._is_fixed(obj.node):
            return taken
        if (obj.node, "truth") not in self._assumed:
            self._assumed.add((obj.node, "truth"))
            condition = obj.node
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                condition = self.create_node(
                    "call_function", operator.ne if taken else operator.eq, (obj.node, 0), {}
                )
            elif not taken or not isinstance(value, bool):
                condition = self.create_node(
                    "call_function", operator.truth if taken else operator.not_, (obj.node,), {}
                )
            self.assert_node(condition, current_line(), f"{self._describe(obj.node)} is {taken}")
        return taken

    def concrete(self, proxy: Any) -> Any:
        """Return the number that ``proxy`` stands for in the example, and assert that it is that number."""
        if not issubclass(type(proxy), fx.Proxy):
            return proxy
        value = self._decidable(proxy)
        if not isinstance(value, (int, float)):
            raise TypeError(f"{type(value).__name__} is no number")
        return self._asserted(proxy, value)

    def hashed(self, proxy: RecordingProxy) -> int:
        """Return the hash of the value in the example, and assert that it is that value; of a tensor its identity."""
        if isinstance(self.values[proxy.node], (torch.Tensor, nn.Module)):
            return object.__hash__(proxy)
        return hash(self._asserted(proxy, self._decidable(proxy)))

    def told(self, proxy: RecordingProxy, frame: FrameType) -> Any:
        """Return the value in the example, of which a text is made; assert that it is that one if it may decide."""
        if is_shown(frame):
            return self.values[proxy.node]
        return self._asserted(proxy, self._decidable(proxy))

    def _asserted(self, proxy: Any, value: Any) -> Any:
        """Return ``value`` and assert that ``proxy`` has it."""
        if not self._is_fixed(proxy.node):
            self._fixed.add(proxy.node)
            plain_value = tuple(value) if isinstance(value, torch.Size) else value
            condition = self.create_node("call_function", operator.eq, (proxy.node, plain_value), {})
            self.assert_node(condition, current_line(), f"{self._describe(proxy.node)} is {value}")
        return value

    def _is_fixed(self, node: fx.Node) -> bool:
        """Say whether assertions say already which value ``node`` has: that of all it is computed from."""
        is_computed = node.op in ("call_function", "call_method") and bool(node.all_input_nodes)
        if is_computed and node not in self._fixed and self._fixed.issuperset(node.all_input_nodes):
            self._fixed.add(node)
        return node in self._fixed

    def _decidable(self, proxy: Any) -> Any:
        value = self.values[proxy.node]
        if isinstance(value, torch.Tensor):
            self.refuse("the way it goes depends on the data in a tensor")
        if proxy.node in self._undecidable:
            self.refuse(self._undecidable[proxy.node])
        return value

    def _describe(self, node: fx.Node, depth: int = 3) -> str:
        """Return what ``node`` computes as a short expression."""
        if depth == 0 or node.op in ("placeholder", "get_attr", "call_module") or node.kwargs:
            return node.name
        if node.target in (getattr, operator.getitem) and isinstance(node.args[0], fx.Node):
            owner, key = self._describe(node.args[0], depth), node.args[1]
            return f"{owner}.{key}" if node.target is getattr else f"{owner}[{_as_written(key)}]"
        args = [self._describe(a, depth - 1) if isinstance(a, fx.Node) else repr(a) for a in node.args]
        sign = INFIX.get(node.target)
        if sign is not None and len(args) == 2:
            return f"{args[0]} {sign} {args[1]}"
        if node.op == "call_method":
            return f"{args[0]}.{node.target}({', '.join(args[1:])})"
        return f"{getattr(node.target, '__name__', node.target)}({', '.join(args)})"


def _as_written(key: Any) -> str:
    if not isinstance(key, slice):
        return repr(key)
    parts = ["" if part is None else repr(part) for part in (key.start, key.stop, key.step)]
    return ":".join(parts if parts[2] else parts[:2])
