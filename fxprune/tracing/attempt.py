"""One attempt at a graph: a tracer's nodes become a functional GraphModule with shapes, origins and paths."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import TraceError
from fxprune.facts.shapes import propagate_shapes
from fxprune.ir.applied import LAYER
from fxprune.ir.by_mode import TRAIN_INPUTS
from fxprune.ir.lazy_graph_module import LazyGraphModule, graph_module_of
from fxprune.ir.module_tree import every_module, every_tensor, is_layer, set_flags, state_of
from fxprune.ir.node_targets import is_sayable
from fxprune.ir.nodes import EXAMPLE_INPUTS, OPAQUE, ORIGIN, PATH, TIER, innermost_module, keep_example_inputs
from fxprune.ir.pytrees import copy_tensors, version_of
from fxprune.ir.trace_notes import ASSUMPTIONS, Assumption
from fxprune.tracing.autograd_functions import hold_to_shapes
from fxprune.tracing.batch_norms import recover_batch_norms
from fxprune.tracing.functionalize import functionalize
from fxprune.tracing.inputs import Call, call_of_graph
from fxprune.tracing.merging import merge, merge_assumptions
from fxprune.tracing.module_state import require_no_memory, require_own_buffers, state_kept
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.training_flag import (
    FlagReads,
    follow_stochastic_depth,
    follow_training_flag,
    in_train_mode,
    refuse_train_mode,
)

# A GraphModule keeps things of its own under these names.
_OWN = {"self", "meta", "_graph", "_code", "_codegen", "_tracer_cls"}
RESERVED = (set(dir(fx.GraphModule)) - set(dir(nn.Module))) | _OWN


@dataclass(frozen=True)
class TrainMode:
    """How a module is traced in train mode too.

    The call, what makes the tracers to try, whether the modes are known to differ, and what says why the module
    itself does not take the call in train mode, if it does not.
    """

    call: Call
    make_tracers: tuple[Callable[[], SymbolicTracer], ...]
    differs: bool = False
    failure: Callable[[], str | None] = lambda: None


def attempt(
    own: nn.Module,
    call: Call,
    flags: Mapping[str, bool],
    tracer: SymbolicTracer,
    train_mode: TrainMode,
) -> fx.GraphModule:
    """Trace ``own``, a module that may be taken apart, into a functional GraphModule that follows the train flag.

    Args:
        own: the module; its layers become the graph's.
        call: the call that is traced.
        flags: the train flag of each module of the user's model, by path.
        tracer: that of a tier.
        train_mode: how it is traced in train mode, if its flag is read.

    Raises:
        TraceError: it cannot be traced in either mode, or the inputs do not fit.
    """
    modules = every_module(own)
    with state_kept(modules):
        set_flags(modules, False)
        traced = _Traces(own, modules, tracer, train_mode, flags)
        graph, in_training, readers = traced.graphs()
        graph_module = _graph_module(own, graph)
        graph_module.meta |= _own_notes(own)
        _make_functional(graph_module, call, training=False)
        assumptions = graph_module.meta.get(ASSUMPTIONS, tuple(tracer.assumptions))
        if in_training is not None:
            twin = _graph_module(own, in_training)
            _make_functional(twin, train_mode.call, training=True)
            assumptions += merge_assumptions(merge(graph_module, twin), assumptions, traced.assumed_in_training)
        if traced.failure is not None:
            assumptions += (refuse_train_mode(graph_module, traced.failure, flags),)
        if len(set(flags.values())) == 1:
            set_flags(every_module(graph_module), flags[""])
        else:
            for name, module in graph_module.named_modules():
                module.training = flags.get(name, flags[""])
        for node in graph_module.graph.nodes:
            node.meta[PATH] = innermost_module(node)
            node.meta[ORIGIN] = (node.name,)
        keep_example_inputs(graph_module, copy_tensors(call_of_graph(graph_module, call).values))
        graph_module.meta[ASSUMPTIONS] = assumptions
        if in_training is not None and train_mode.call is not call:
            graph_module.meta[TRAIN_INPUTS] = copy_tensors(call_of_graph(graph_module, train_mode.call).values)
        if in_training is not None:
            propagate_shapes(graph_module, graph_module.meta[EXAMPLE_INPUTS])
        recover_batch_norms(graph_module, own, readers)
    return graph_module


def _own_notes(own: nn.Module) -> dict[str, Any]:
    """Return what the graph of ``own`` keeps of its notes, if that is a graph itself."""
    kept = (ASSUMPTIONS, OPAQUE, TIER, TRAIN_INPUTS)
    return {key: own.meta[key] for key in kept if key in own.meta} if isinstance(own, fx.GraphModule) else {}


def _make_functional(graph_module: fx.GraphModule, call: Call, *, training: bool) -> None:
    inputs = copy_tensors(call_of_graph(graph_module, call).values)
    functionalize(graph_module, propagate_shapes(graph_module, inputs, training=training))
    hold_to_shapes(graph_module)


class _Traces:
    """The graphs of one module: the one in eval mode, and the one in train mode where it is another."""

    def __init__(
        self,
        own: nn.Module,
        modules: Sequence[nn.Module],
        tracer: SymbolicTracer,
        train_mode: TrainMode,
        flags: Mapping[str, bool],
    ) -> None:
        self.own, self.modules, self.tracer, self.train_mode, self.flags = own, modules, tracer, train_mode, flags
        self.assumed_in_training: tuple[Assumption, ...] = ()
        self.failure: str | None = None  # in train mode, of the module itself
        self._buffers = every_tensor(own, "_buffers")
        self._held = [
            (module, name, buffer)
            for module in modules
            if not isinstance(module, torch.jit.ScriptModule)  # it is opaque, and hands its buffers out anew
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._values = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._versions = {name: version_of(buffer) for name, buffer in self._buffers.items()}

    def graphs(self) -> tuple[fx.Graph, fx.Graph | None, Collection[nn.Module]]:
        """Return the graph in eval mode, that in train mode if one graph will not do, and who reads its train flag.

        Raises TraceError where tracing itself updated a buffer: that update would be missing from the graph.
        """
        if isinstance(self.own, fx.GraphModule):
            return copy.deepcopy(self.own.graph), None, ()
        with FlagReads(self.own, self.tracer) as flag_reads:
            graph = self._trace(self.tracer)
        in_training = None
        if flag_reads.seen or self.train_mode.differs:
            in_training = self._trace_in_train_mode()
            if in_training and follow_training_flag(graph, in_training, self.own, self.flags):
                in_training = None
        elif flag_reads.seen_in_stochastic_depth:
            follow_stochastic_depth(graph, self.flags)
        return graph, in_training, flag_reads.readers

    def _trace(self, tracer: SymbolicTracer) -> fx.Graph:
        states = [(module, state_of(module)) for module in self.modules if not is_layer(module)]
        try:
            graph = tracer.graph_of(self.own)
            for module, state in states:
                require_no_memory(self.own, module, state)
            require_own_buffers(self.own, self._held)  # but for what stands for n after self.n += 1
            # norms that are spelt out count their batches: recover_batch_norms makes layers of them
            unseen = [name for name in self._updated() if not name.endswith("num_batches_tracked")]
            if unseen:
                reason = f"it updates {unseen[0]} by what a graph does not see"
                raise TraceError(f"{type(self.own).__name__} cannot be traced: {reason}", path="", reason=reason)
            return graph
        finally:
            self._restore()

    def _trace_in_train_mode(self) -> fx.Graph | None:
        """Return the graph in train mode, by the first tracer that can; None where the module itself fails then.

        Raises TraceError where no tracer can.
        """
        self.failure = self.train_mode.failure()
        if self.failure is not None:
            return None
        for make_tracer in self.train_mode.make_tracers:
            try:
                with in_train_mode(self.own, self.flags):
                    tracer = make_tracer()
                    graph = self._trace(tracer)
            except TraceError as error:
                failed = error
                continue
            self.assumed_in_training = tuple(tracer.assumptions)
            return graph
        reason = f"in train mode {failed.reason}"
        raise TraceError(
            f"in train mode: {failed}", path=failed.path, reason=reason, source=failed.source
        ) from failed

    def _updated(self) -> list[str]:
        return [name for name, buffer in self._buffers.items() if version_of(buffer) != self._versions[name]]

    def _restore(self) -> None:
        """Give the buffers back what they held: those that forward wrote to, or put others in the place of."""
        for module, name, buffer in self._held:
            module._buffers[name] = buffer
        for name in self._updated():
            self._buffers[name].copy_(self._values[name])
            self._versions[name] = version_of(self._buffers[name])


def _graph_module(own: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a GraphModule of ``graph``; what has a name that its code cannot say, or needs itself, gets another."""
    reading = [node for node in graph.nodes if node.op in ("call_module", "get_attr") and node.target != "training"]
    renamed = _renamed({str(node.target) for node in reading})
    if not renamed:
        return graph_module_of(own, graph)
    state = {}
    for node in reading:
        value = node.meta.pop(LAYER, None) or _held(own, str(node.target))
        node.target = renamed.get(str(node.target), str(node.target))
        state[node.target] = value
    for node in graph.nodes:
        if node.name == "self":
            node._rename("self_1")
    return LazyGraphModule(state, graph, class_name=type(own).__name__)


def _renamed(targets: Collection[str]) -> dict[str, str]:
    """Return other targets for those that code cannot name: ``a.class`` becomes ``a.class_1``, ``0"`` ``0__1``."""
    paths = {target: target.split(".") for target in sorted(targets)}
    taken = {atom for atoms in paths.values() for atom in atoms}
    names: dict[str, str] = {}
    found = {}
    for target, atoms in paths.items():
        odd = [atom for depth, atom in enumerate(atoms) if not is_sayable(atom) or (not depth and atom in RESERVED)]
        for atom in odd:
            plain = re.sub("[^0-9a-zA-Z_]", "_", atom)
            free = (name for name in (f"{plain}_{number}" for number in count(1)) if name not in taken)
            taken.add(names.setdefault(atom, next(free)))
        if odd:
            found[target] = ".".join(names[atom] if atom in odd else atom for atom in atoms)
    return found


def _held(own: nn.Module, target: str) -> Any:
    """Return the module, parameter or buffer at ``target``, whatever else has its name; or another attribute."""
    owner, _, name = target.rpartition(".")
    module: Any = own
    for atom in owner.split(".") if owner else ():
        module = module._modules[atom]
    for table in (module._modules, module._parameters, module._buffers):
        if name in table:
            return table[name]
    return getattr(module, name)
