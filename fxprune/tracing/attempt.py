"""One attempt at a graph: a tracer's nodes become a functional GraphModule with shapes, origins and paths."""

from __future__ import annotations

import copy
import dis
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune.copies import LazyGraphModule, graph_module_of
from fxprune.errors import TraceError
from fxprune.facts.effects import IN_PLACE_OPERATORS
from fxprune.facts.shapes import propagate_shapes
from fxprune.graph import EXAMPLE_INPUTS, OPAQUE, ORIGIN, PATH, TIER, innermost_module
from fxprune.module_tree import every_module, is_layer, set_flags, state_of
from fxprune.nests import copy_tensors
from fxprune.node_targets import attribute
from fxprune.tracing.batch_norms import recover_batch_norms
from fxprune.tracing.functionalize import functionalize
from fxprune.tracing.inputs import Call, call_of_graph
from fxprune.tracing.notes import ASSUMPTIONS
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.training_flag import FlagReads, follow_stochastic_depth, follow_training_flag

# A GraphModule keeps things of its own under these names.
_SIZED = (list, dict, set)
_KEEPING = frozenset((int, float, bool, *_SIZED))  # what forward may keep between calls
RESERVED = (set(dir(fx.GraphModule)) - set(dir(nn.Module))) | {"meta", "_graph", "_code", "_codegen", "_tracer_cls"}


def attempt(
    own: nn.Module, call: Call, flags: Mapping[str, bool], make_tracer: Callable[[], SymbolicTracer]
) -> fx.GraphModule:
    """Trace ``own``, a module that may be taken apart, in eval mode into a functional GraphModule.

    Args:
        own: the module; its layers become the graph's.
        call: the call that is traced.
        flags: the train flag of each module of the user's model, by path.
        make_tracer: makes the tracer of a tier; the module is traced more than once.

    Raises:
        TraceError: it cannot be traced, or the inputs do not fit.
    """
    tracer = make_tracer()
    modules = every_module(own)
    with _state_kept(modules):
        set_flags(modules, False)
        graph, readers = _graph_of(own, tracer, make_tracer, flags)
        graph_module = _graph_module(own, graph)
        if len(set(flags.values())) == 1:
            set_flags(every_module(graph_module), flags[""])
        else:
            for name, module in graph_module.named_modules():
                module.training = flags.get(name, flags[""])
        for node in graph_module.graph.nodes:
            node.meta[PATH] = innermost_module(node)
            node.meta[ORIGIN] = (node.name,)
        graph_module.meta[EXAMPLE_INPUTS] = copy_tensors(call_of_graph(graph_module, call).values)
        graph_module.meta[ASSUMPTIONS] = tuple(tracer.assumptions)
        if isinstance(own, fx.GraphModule):
            graph_module.meta |= {key: own.meta[key] for key in (ASSUMPTIONS, OPAQUE, TIER) if key in own.meta}
        values = propagate_shapes(graph_module, graph_module.meta[EXAMPLE_INPUTS])
        functionalize(graph_module, values)
        recover_batch_norms(graph_module, own, readers)
    return graph_module


def _graph_of(
    own: nn.Module, tracer: SymbolicTracer, make_tracer: Callable[[], SymbolicTracer], flags: Mapping[str, bool]
) -> tuple[fx.Graph, Collection[nn.Module]]:
    """Return the graph of ``own``, which follows the train flag where it can, and the modules that read their flag.

    Raises TraceError where tracing itself updated a buffer: that update would be missing from the graph.
    """
    if isinstance(own, fx.GraphModule):
        return copy.deepcopy(own.graph), ()
    buffers = dict(own.named_buffers())
    held = [
        (module, name, buffer)
        for module in every_module(own)
        if not isinstance(module, torch.jit.ScriptModule)  # it is opaque, and hands its buffers out anew
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    versions = {name: buffer._version for name, buffer in buffers.items()}

    def updated() -> list[str]:
        return [name for name, buffer in buffers.items() if buffer._version != versions[name]]

    def retrace(tracer: SymbolicTracer) -> fx.Graph:
        states = [(module, state_of(module)) for module in every_module(own) if not is_layer(module)]
        try:
            graph = tracer.graph_of(own)
            for module, state in states:
                _require_no_memory(own, module, state)
            _require_own_buffers(own, held)
            return graph
        finally:
            for module, name, buffer in held:
                module._buffers[name] = buffer  # in the place of what stands for n after self.n += 1

    def retrace_in_training() -> fx.Graph:
        before = updated()
        graph = retrace(make_tracer())
        # norms that are spelt out count their batches: recover_batch_norms makes layers of them
        new = [name for name in updated() if name not in before and not name.endswith("num_batches_tracked")]
        if new:
            reason = f"it updates {new[0]} then"
            raise TraceError(reason, reason=reason)
        return graph

    try:
        with FlagReads(own) as flag_reads:
            graph = retrace(tracer)
        if updated():
            reason = f"it updates {updated()[0]} by what a graph does not see"
            raise TraceError(f"{type(own).__name__} cannot be traced: {reason}", path="", reason=reason)
        if flag_reads.seen:
            follow_training_flag(graph, own, retrace_in_training, flags)
        elif flag_reads.seen_in_stochastic_depth:
            follow_stochastic_depth(graph, flags)
        return graph, flag_reads.readers
    finally:
        for name in updated():
            buffers[name].copy_(values[name])


def _require_no_memory(own: nn.Module, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise TraceError if forward has changed a number or a container that it reads: what it keeps between calls."""
    for name, value in state.items():
        if name[:1] == "_" or name == "training" or type(value) not in _KEEPING:
            continue
        now: Any = module.__dict__.get(name)
        changed = type(now) is not type(value) or (len(now) != len(value) if type(value) in _SIZED else now != value)
        if changed and _reads(type(module), name):
            path = next(path for path, one in own.named_modules() if one is module)
            reason = f"it changes its attribute {name}, which it reads too, from call to call"
            raise TraceError(f"{type(own).__name__} cannot be traced: {reason}", path=path, reason=reason)


def _reads(kind: type[nn.Module], name: str) -> bool:
    """Say whether the forward of a class reads ``self.name``; code that is not Python's counts as reading it."""
    code = getattr(kind.forward, "__code__", None)
    return code is None or any(
        one.opname in ("LOAD_ATTR", "LOAD_METHOD") and one.argval == name for one in dis.get_instructions(code)
    )


def _require_own_buffers(own: nn.Module, held: Sequence[tuple[nn.Module, str, torch.Tensor]]) -> None:
    """Raise TraceError if forward put another tensor in the place of a buffer: a graph would lose it."""
    for module, name, buffer in held:
        now = module._buffers.get(name)
        if now is buffer or (isinstance(now, fx.Proxy) and now.node.target in IN_PLACE_OPERATORS):
            continue
        path = next(path for path, one in own.named_modules() if one is module)
        reason = f"it assigns its buffer {name} anew; write it in place, self.{name}.copy_(...)"
        raise TraceError(f"{type(own).__name__} cannot be traced: {reason}", path=path, reason=reason)


def _graph_module(own: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a GraphModule of ``graph``; a layer with a name that GraphModules need for themselves gets another."""
    kind = type(own).__name__
    reading = [node for node in graph.nodes if node.op in ("call_module", "get_attr")]
    if not any(str(node.target).partition(".")[0] in RESERVED for node in reading):
        return graph_module_of(own, graph)
    state = {}
    for node in reading:
        value = attribute(own, str(node.target))
        first, dot, rest = str(node.target).partition(".")
        node.target = (f"{first}_1" if first in RESERVED else first) + dot + rest
        state[node.target] = value
    return LazyGraphModule(state, graph, class_name=kind)


@contextmanager
def _state_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what tracing leaves in modules: attributes that forward sets, which now hold stand-ins, and constants.

    After a success the flags that the graph needs stay as they are.
    """
    before = [(module, state_of(module)) for module in modules]
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for module, state in before:
            flags = {name: module.__dict__[name] for name in ("inplace", "training") if name in state and succeeded}
            module.__dict__.clear()
            module.__dict__.update(state | flags)
