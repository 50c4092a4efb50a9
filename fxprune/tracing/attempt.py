"""One attempt at a graph: a tracer's nodes become a functional GraphModule with shapes, origins and paths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from fxprune.copies import LazyGraphModule, graph_module_of
from fxprune.facts.shapes import propagate_shapes
from fxprune.graph import EXAMPLE_INPUTS, OPAQUE, ORIGIN, PATH, TIER, innermost_module
from fxprune.module_tree import every_module, is_layer, set_flags
from fxprune.nests import copy_tensors
from fxprune.node_targets import attribute
from fxprune.tracing.batch_norms import recover_batch_norms
from fxprune.tracing.functionalize import functionalize
from fxprune.tracing.inputs import Call, call_of_graph
from fxprune.tracing.notes import ASSUMPTIONS
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.training_flag import FlagReads, follow_stochastic_depth, follow_training_flag

# A GraphModule keeps things of its own under these names.
RESERVED = (set(dir(fx.GraphModule)) - set(dir(nn.Module))) | {"meta", "_graph", "_code", "_codegen", "_tracer_cls"}

_CONTAINERS = frozenset((list, dict, set))


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
        graph = _graph_of(own, tracer, make_tracer, flags)
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
        recover_batch_norms(graph_module, own)
    return graph_module


def _graph_of(
    own: nn.Module, tracer: SymbolicTracer, make_tracer: Callable[[], SymbolicTracer], flags: Mapping[str, bool]
) -> fx.Graph:
    """Return the graph of ``own``, which follows the train flag where it can.

    Where tracing itself updated a buffer (a counter, say), that update is missing from the graph: such a model is
    traced again with its buffers as graph values.
    """
    if isinstance(own, fx.GraphModule):
        return copy.deepcopy(own.graph)
    buffers = dict(own.named_buffers())
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    versions = {name: buffer._version for name, buffer in buffers.items()}

    def retrace(tracer: SymbolicTracer, buffers_are_values: bool) -> fx.Graph:
        if not buffers_are_values:
            return tracer.graph_of(own)
        tracer.proxy_buffer_attributes = True
        with _state_kept(every_module(own)):  # self.n += 1 puts what stands for n in its place
            return tracer.graph_of(own)

    try:
        with FlagReads(own) as flag_reads:
            graph = retrace(tracer, False)
        updates_buffers = any(buffer._version != versions[name] for name, buffer in buffers.items())
        if updates_buffers:
            tracer.assumptions.clear()
            graph = retrace(tracer, True)
        if flag_reads.seen:
            follow_training_flag(graph, own, lambda: retrace(make_tracer(), updates_buffers), flags)
        elif flag_reads.seen_in_stochastic_depth:
            follow_stochastic_depth(graph, flags)
        return graph
    finally:
        for name, buffer in buffers.items():
            if buffer._version != versions[name]:
                buffer.copy_(values[name])


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
    before = [(module, _state_of(module)) for module in modules]
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for module, state in before:
            flags = {name: module.__dict__[name] for name in ("inplace", "training") if name in state and succeeded}
            module.__dict__.clear()
            module.__dict__.update(state | flags)


def _state_of(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of ``module``, with copies of the containers that a forward may change."""
    if is_layer(module) and type(module).forward is not nn.Module.forward:
        return module.__dict__.copy()  # a layer of torch's own changes none; one without a forward is a list or dict
    return {name: v.copy() if type(v) in _CONTAINERS else v for name, v in module.__dict__.items()}
