"""The tiers of tracing, each tried where the one before fails.

1. symbolic tracing: no value is known.
2. tracing with the example's values at hand: branches on sizes, dtypes and devices take the example's way.
3. the innermost module whose own forward cannot be traced becomes one opaque call, and 1 and 2 are tried again;
   what is inside it is compiled in place.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError, first_line
from fxprune.facts.shapes import propagate_shapes
from fxprune.ir.by_mode import has_modes
from fxprune.ir.copies import copy_module
from fxprune.ir.lazy_graph_module import LazyGraphModule
from fxprune.ir.module_tree import every_module, every_path, has_hooks, is_layer, mark_opaque, opaque_children
from fxprune.ir.nodes import EXAMPLE_INPUTS, OPAQUE, ORIGIN, PATH, TIER, keep_example_inputs
from fxprune.ir.pytrees import copy_tensors, structure
from fxprune.ir.trace_notes import ASSUMPTIONS, Opaque, Tier
from fxprune.ops.layer_classes import CONV_CLASSES
from fxprune.tracing.attempt import TrainMode, attempt
from fxprune.tracing.check import (
    ModelFails,
    Reference,
    require_same_function,
    require_same_in_train_mode,
    run_once,
)
from fxprune.tracing.inputs import Call, call_of_graph
from fxprune.tracing.opaque import compile_inside, modules_inside
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.training_flag import in_train_mode
from fxprune.tracing.values import ValueTracer
from fxprune.tracing.watched_calls import WatchedRun, record_calls

Fresh = Callable[[], nn.Module]
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "_convolution")
_LOG = logging.getLogger(__name__)
_WHOLE = "model"  # the name of a model that is opaque itself


def trace_by_tiers(
    fresh: Fresh, call: Call, train_call: Call, flags: Mapping[str, bool], expected: Reference | None
) -> fx.GraphModule:
    """Return the graph of a module, which may be one opaque call, with everything traceable inside it compiled.

    Args:
        fresh: makes a copy of the module, in eval mode, that is taken apart: every attempt starts with a new one.
        call: the call that is traced.
        train_call: the call that is traced in train mode, if that differs.
        flags: the train flag of each module, by path.
        expected: what the model returns; None to not compare.

    Raises:
        TraceError: a GraphModule does not fit its inputs.
        ModelFails: the module itself fails on them.
    """
    return _Tracing(fresh, call, train_call, flags, expected, is_region=False).run()


class _Tracing:
    """The search for a graph of one module: which of its modules must be opaque, and why."""

    def __init__(
        self,
        fresh: Fresh,
        call: Call,
        train_call: Call,
        flags: Mapping[str, bool],
        expected: Reference | None,
        *,
        is_region: bool,
    ) -> None:
        self.fresh, self.call, self.flags, self.expected, self.is_region = fresh, call, flags, expected, is_region
        self.train_call = train_call
        self.reasons: dict[str, TraceError] = {}
        self.seen: WatchedRun | None = None
        self.outputs: dict[str, list[Any]] = {}
        self.train_outputs: dict[str, list[Any]] = {}
        self.own = own = fresh()
        self._is_used = False
        modules = every_module(own)
        hooked = {module for module in modules if has_hooks(module) and not is_layer(module)}
        for path, module in own.named_modules() if hooked else ():
            if module in hooked:
                self.reasons[path] = TraceError("it has hooks, which a graph would not run")
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in modules)
        for path, module in own.named_modules() if scripted else ():
            if isinstance(module, torch.jit.ScriptModule) and not any(path.startswith(f"{p}.") for p in self.reasons):
                self.reasons[path] = TraceError("it is compiled by torch.jit, which hides what is inside")

    def _renew(self) -> None:
        """Make ``own`` what the user's model is, whatever attempts and runs have left in it."""
        if self._is_used:
            self.own, self._is_used = self.fresh(), False

    def _take_own(self) -> nn.Module:
        """Return the module as the user's is, its opaque modules marked: to be run or traced once."""
        self._renew()
        self._is_used = True
        for path in self.reasons.keys() - {_WHOLE}:
            mark_opaque(self.own.get_submodule(path))
        return self.own

    def run(self) -> fx.GraphModule:
        """Return the graph; raises TraceError for a region whose own forward cannot be traced."""
        try:
            graph_module = self._search()
        except TraceError as error:
            if self.is_region or isinstance(self.own, fx.GraphModule):
                raise
            self.reasons = {_WHOLE: error}
            mark_opaque(self._take_own())
            graph_module = _whole(self.own, self.call, self.flags)
        if self.reasons:
            self._compile_opaque(graph_module)
        return graph_module

    def _search(self) -> fx.GraphModule:
        """Try the tiers, making one module opaque after the other; raises TraceError when it comes to the root."""
        while True:
            try:
                if "" in self.reasons:
                    raise self.reasons[""]
                self._run()
                return self._tiers_1_and_2()
            except TraceError as error:
                path = error.path
                if not path or path in self.reasons or isinstance(self.own, fx.GraphModule):
                    raise
                self._renew()
                if path not in every_path(self.own):
                    raise  # of a module that its first call adds
                self.reasons[path] = error

    def _tiers_1_and_2(self) -> fx.GraphModule:
        try:
            return self._attempt("symbolic", SymbolicTracer(self.call, set(self.reasons)))
        except TraceError:
            if isinstance(self.own, fx.GraphModule):
                raise
        return self._attempt("values", ValueTracer(self.call, set(self.reasons), self.outputs))

    def _attempt(self, tier: Tier, tracer: SymbolicTracer) -> fx.GraphModule:
        symbolic = partial(SymbolicTracer, self.train_call, set(self.reasons))
        values = partial(ValueTracer, self.train_call, set(self.reasons), self.train_outputs)
        differs = bool(self.train_outputs) and structure(self.train_outputs) != structure(self.outputs)
        tracers = (symbolic, values) if tier == "symbolic" else (values,)
        train_mode = TrainMode(self.train_call, tracers, differs, self._failure_in_train_mode)
        _LOG.info("tracing %s (%s)", type(self.own).__name__, tier)
        graph_module = self._checked(attempt(self._take_own(), self.call, self.flags, tracer, train_mode))
        graph_module.meta.setdefault(TIER, tier)  # a graph that is traced again keeps its own
        return graph_module

    def _run(self) -> None:
        """Keep what the opaque modules return in a run; raises TraceError for one that writes to its input."""
        if not self.reasons:
            return
        own = self._take_own()
        self._is_used = False  # copies run
        modules = modules_inside(own, self.reasons, self.call)
        if self.seen is None or not self.seen.calls.keys() >= modules.keys():
            _LOG.info("running %s on the example inputs", type(own).__name__)
            self.seen = record_calls(own, self.call, modules)
        calls = {path: found for path, found in self.seen.calls.items() if path in self.reasons and found.count}
        for path, found in calls.items():
            if found.overwrites:
                outer = path.rpartition(".")[0]
                reason = f"{path} cannot be traced ({self.reasons[path].reason}) and overwrites its input"
                raise TraceError(reason, path=outer, reason=reason)
        self.outputs = {path: found.outputs for path, found in calls.items()}
        self.train_outputs = self._outputs_in_train_mode(own, self.outputs)

    def _outputs_in_train_mode(self, own: nn.Module, paths: Collection[str]) -> dict[str, list[Any]]:
        """Return what the opaque modules at ``paths`` return in a run in train mode; nothing if that fails."""
        if not paths:
            return {}
        modules = {path: own.get_submodule(path) for path in paths}
        try:
            with in_train_mode(own, self.flags):
                run = record_calls(own, self.train_call, modules, training=True)
        except ModelFails:  # it may want other inputs then
            return {}
        return {path: found.outputs for path, found in run.calls.items() if found.count}

    def _failure_in_train_mode(self) -> str | None:
        """Return why the module does not take the call in train mode; None if it does."""
        own = self.fresh()
        try:
            with in_train_mode(own, self.flags):
                run_once(own, self.train_call, training=True)
        except Exception as error:
            return first_line(error)
        return None

    def _checked(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        if self.is_region:
            self._require_own_weights(graph_module)
        if self.expected is not None:
            graph_call = call_of_graph(graph_module, self.call)
            require_same_function(self.own, graph_module, graph_call, self.expected)
            if has_modes(graph_module.graph):
                graph_call = call_of_graph(graph_module, self.train_call)
                own = self.fresh()
                with in_train_mode(own, self.flags):
                    require_same_in_train_mode(own, self.train_call, graph_module, graph_call)
        return graph_module

    def _require_own_weights(self, graph_module: fx.GraphModule) -> None:
        """Refuse to unroll what calls a layer at several sites: that layer can be a region with one site."""
        layers = {name: m for name, m in graph_module.named_modules() if next(m.parameters(), None) is not None}
        stacks: dict[str, list[list[str]]] = {}
        for node in graph_module.graph.nodes:
            if node.op == "call_module" and str(node.target) in layers:
                stacks.setdefault(str(node.target), []).append(list(node.meta.get("nn_module_stack") or {}))
        for target, calls in stacks.items():
            if len(calls) > 1:
                common = itertools.takewhile(lambda keys: len(set(keys)) == 1, zip(*calls, strict=False))
                caller = [keys[0].partition("@")[0] for keys in common]
                reason = f"it calls {target} at {len(calls)} sites"
                raise TraceError(reason, path=caller[-1] if caller else "", reason=reason)

    def _compile_opaque(self, graph_module: fx.GraphModule) -> None:
        """Compile what is inside the opaque modules, and note what stays hidden."""
        graph_call = call_of_graph(graph_module, self.call)
        notes: list[Opaque] = []
        returned: dict[str, list[Any]] = {}
        for path, why in self.reasons.items():
            if not any(node.target == path for node in graph_module.graph.nodes):
                continue
            module = graph_module.get_submodule(path)
            if isinstance(module, torch.jit.ScriptModule):
                notes.append(Opaque(path, why.reason, why.source, _compiled_convs(module)))
                continue
            is_whole = path == _WHOLE and module is self.own
            place = "" if is_whole else path
            seen = self.seen if is_whole or self.expected is not None else None  # otherwise the graph may differ
            calls = compile_inside(module, place, graph_module, graph_call, _compile_region, self.flags, seen)
            if not calls.overwrites:
                returned[path] = calls.outputs
            hidden = sum(isinstance(inner, CONV_CLASSES) for inner in opaque_children(module))
            notes.append(Opaque(path, why.reason, why.source, hidden))
        graph_module.meta[OPAQUE] = tuple(notes)
        graph_module.meta[TIER] = "opaque"
        propagate_shapes(graph_module, graph_module.meta[EXAMPLE_INPUTS], returned=returned)


def _compiled_convs(module: torch.jit.ScriptModule) -> int:
    """Return how many convolutions are in what torch.jit compiled, if it is a model."""
    graph = getattr(module, "inlined_graph", None)
    return 0 if graph is None else sum(len(graph.findAllNodes(f"aten::{name}")) for name in _CONVOLUTIONS)


def _compile_region(child: nn.Module, expected: Reference, flags: Mapping[str, bool]) -> fx.GraphModule:
    own, call = partial(copy_module, child, share_weights=True), expected.call
    try:
        return _Tracing(own, call, call, flags, expected, is_region=True).run()
    except ModelFails as failure:
        raise TraceError(f"{type(child).__name__} cannot be called alone: {failure}") from failure


def _whole(own: nn.Module, call: Call, flags: Mapping[str, bool]) -> fx.GraphModule:
    """Return a graph that is one call of ``own`` and takes what its forward takes, defaults included."""
    graph = fx.Graph()
    given = {argument.name: graph.placeholder(argument.name) for argument in call.arguments}
    args, kwargs = call.arrange(tuple(given.values()))
    for name, parameter in inspect.signature(own.forward).parameters.items():
        plain = parameter.default is None or isinstance(parameter.default, (bool, int, float, str))
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and plain and name not in given:
            kwargs[name] = graph.placeholder(name, default_value=parameter.default)
    graph.output(graph.call_module(_WHOLE, args, kwargs))
    holder = nn.Module()
    holder.add_module(_WHOLE, own)
    graph_module = LazyGraphModule(holder, graph, class_name=type(own).__name__)
    graph_module.training = flags[""]
    for path, module in own.named_modules():
        module.training = flags.get(path, flags[""])
    for node in graph_module.graph.nodes:
        node.meta[ORIGIN] = (node.name,)
        node.meta[PATH] = str(node.target) if node.op == "call_module" else ""
    keep_example_inputs(graph_module, copy_tensors(call.values))
    graph_module.meta[ASSUMPTIONS] = ()
    return graph_module
