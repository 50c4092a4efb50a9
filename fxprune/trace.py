"""The front end: an nn.Module and example inputs become a functional GraphModule with shapes and origins.

    graph_module = fxprune.trace(model, torch.randn(1, 3, 224, 224))

The model is deep-copied first and never touched. The graph is traced in eval mode; where the train-mode
trace differs only in a flag (``F.dropout(..., training=self.training)``), the flag becomes a read of
``self.training``, so that the graph still trains as the model does.
"""

from __future__ import annotations

import copy
import inspect
import linecache
import operator
import os
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from fxprune.batch_norms import recover_batch_norms
from fxprune.errors import FxpruneError, FxpruneWarning, TraceError
from fxprune.facts.costs import total_macs
from fxprune.facts.shapes import propagate_shapes, tensor_meta
from fxprune.functionalize import functionalize, is_in_place
from fxprune.graph import EXAMPLE_INPUTS, ORIGIN, PATH, TRACED_MACS, evaluating
from fxprune.verify import difference, tensors_of

_LIBRARY_FOLDERS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


class _Proxy(fx.Proxy):
    """Records ``x += y`` as what it is: torch.fx's own Proxy loses that it writes into ``x``."""


def _in_place_operator(target: Any) -> Any:
    def record(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


for _name in (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "imatmul",
    "iand",
    "ior",
    "ixor",
):
    setattr(_Proxy, f"__{_name}__", _in_place_operator(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def trace(model: nn.Module, example_inputs: Any) -> fx.GraphModule:
    """Trace ``model`` into a GraphModule that computes the same function.

    Args:
        model: any nn.Module that torch.fx can trace; it is copied, never changed.
        example_inputs: the tensor that ``model`` takes, or the tuple of its inputs. They fix the shapes that
            costs and eligibility are worked out for (the graph itself stays free in the batch size), they
            are what passes are verified on, and :class:`~fxprune.passes.InsertResConv` measures its layers'
            inputs with them: a small batch of real data is best. Arguments of ``forward`` that they do not
            cover take their defaults.

    Returns:
        A GraphModule without in-place ops, with ``tensor_meta`` and origins on every node, in the train or
        eval mode of ``model``.

    Raises:
        TraceError: the model cannot be traced (names the source line), or the inputs do not fit (names the node).
        FxpruneError: a parameter holds NaN or Inf (names it).
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected an nn.Module to trace, got {type(model).__name__}")
    require_finite(model)
    constants = _defaults_to_bake(model, len(inputs))
    own, graph = _trace_copy(model, constants)
    flags = {name: module.training for name, module in model.named_modules()}
    graph_module = fx.GraphModule(own, graph, class_name=type(model).__name__)
    for name, module in graph_module.named_modules():
        module.training = flags.get(name, flags[""])
    _drop_baked_placeholders(graph_module, constants)
    _functional_with_shapes(graph_module, inputs)
    recover_batch_norms(graph_module, own)
    for node in graph_module.graph.nodes:
        node.meta[ORIGIN] = (node.name,)
        node.meta[PATH] = _path_of(node)
    graph_module.meta[EXAMPLE_INPUTS] = map_aggregate(
        inputs, lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x
    )
    graph_module.meta[TRACED_MACS] = total_macs(graph_module)
    _require_same_function(model, graph_module, inputs)
    return graph_module


def _require_same_function(model: nn.Module, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Call both twice (the second call shows state that tracing lost) and compare what they return."""
    reference = copy.deepcopy(model)
    buffers = {name: buffer.clone() for name, buffer in graph_module.named_buffers()}
    for _ in range(2):
        outputs = []
        for module in (reference, graph_module):
            copies = map_aggregate(inputs, lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x)
            with evaluating(module), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                outputs.append(tensors_of(module(*copies)))
        expected, found = outputs
        same_types = [(t.shape, t.dtype) for t in expected] == [(t.shape, t.dtype) for t in found]
        if not same_types or difference(expected, found)[1] > 1e-3:
            raise TraceError(
                f"{type(model).__name__} computes something else than its traced graph: it asks what type its values "
                "have, changes the dtype by autocast, or keeps state that torch.fx cannot see"
            )
    for name, buffer in graph_module.named_buffers():
        buffer.copy_(buffers[name])


def example_inputs_of(graph_module: fx.GraphModule) -> tuple[Any, ...]:
    """Return the example inputs that ``graph_module`` was traced with; raises FxpruneError if there are none."""
    inputs = graph_module.meta.get(EXAMPLE_INPUTS)
    if inputs is None:
        raise FxpruneError("the graph has no example inputs; make it with fxprune.trace(model, example_inputs)")
    return tuple(inputs)


def require_finite(model: nn.Module) -> None:
    """Raise FxpruneError, naming the tensor, if a weight or a running statistic of ``model`` is NaN or Inf."""
    named: list[tuple[str, torch.Tensor]] = [*model.named_parameters()]
    named += [(name, b) for name, b in model.named_buffers() if name.rpartition(".")[2].startswith("running_")]
    for name, tensor in named:
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise FxpruneError(f"{name} holds NaN or Inf; load weights from before the training diverged")


def _trace_copy(model: nn.Module, constants: Mapping[str, Any]) -> tuple[nn.Module, fx.Graph]:
    """Return a copy of ``model`` in eval mode, and its graph, which follows the train flag where it can.

    Where tracing itself updated a buffer (a counter, say), that update is missing from the graph: such a model is
    traced again with its buffers as graph values.
    """
    try:
        own = copy.deepcopy(model).eval()
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {error}") from error
    buffers = dict(own.named_buffers())
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    versions = {name: buffer._version for name, buffer in buffers.items()}
    graph = _symbolic_trace(own, constants)
    updates_buffers = any(buffer._version != versions[name] for name, buffer in buffers.items())
    if updates_buffers:
        graph = _symbolic_trace(own, constants, updates_buffers)
    _follow_training_flag(graph, own, model, constants, updates_buffers)
    for name, buffer in buffers.items():
        if buffer._version != versions[name]:
            buffer.copy_(values[name])
    return own, graph


def _symbolic_trace(model: nn.Module, constants: Mapping[str, Any], buffers_are_values: bool = False) -> fx.Graph:
    if isinstance(model, fx.GraphModule):
        return copy.deepcopy(model.graph)
    tracer = _Tracer()
    tracer.proxy_buffer_attributes = buffers_are_values
    try:
        return tracer.trace(model, dict(constants) or None)
    except Exception as error:
        frame = _last_own_frame(error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TraceError(f"{type(model).__name__} cannot be traced: {frame}: {reason}") from error


def _last_own_frame(error: Exception) -> str:
    """Return ``file:line: source`` of the innermost frame that is not torch's and not ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_LIBRARY_FOLDERS, "<")):
            source = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{frame.filename}:{frame.lineno}: `{source}`"
    return "in forward"


def _defaults_to_bake(model: nn.Module, given: int) -> dict[str, Any]:
    """Return the defaults of the forward arguments past the ``given`` ones (a Proxy is never None)."""
    if isinstance(model, fx.GraphModule):
        return {}
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = positional[given:] + [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    missing = [p.name for p in rest if p.default is p.empty]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if missing or (given > len(positional) and not takes_any):
        wanted = ", ".join(p.name for p in positional)
        raise TraceError(
            f"{type(model).__name__}.forward takes ({wanted}), but {given} example inputs were given; "
            "pass a tuple with one entry an input"
        )
    return {p.name: p.default for p in rest}


def _drop_baked_placeholders(graph_module: fx.GraphModule, constants: Mapping[str, Any]) -> None:
    """Remove the inputs, and the checks on them, that fx leaves behind for baked arguments."""
    if not constants:
        return
    graph = graph_module.graph
    graph.set_codegen(fx.graph.CodeGen())
    baked = [n for n in graph.nodes if n.op == "placeholder" and n.name.rpartition("_")[0] in constants]
    for placeholder in baked:
        for user in reversed(_downstream(placeholder)):
            graph.erase_node(user)
        graph.erase_node(placeholder)
    graph_module.recompile()


def _downstream(node: fx.Node) -> list[fx.Node]:
    """Return what depends on a baked input, in graph order: fx's own equality check, and nothing else."""
    reached = {node}
    for later in node.graph.nodes:
        if reached.intersection(later.all_input_nodes):
            if later.op == "output":
                raise TraceError(f"argument {node.name} is baked to its default but is returned; pass it explicitly")
            reached.add(later)
    return [later for later in node.graph.nodes if later in reached and later is not node]


def _follow_training_flag(
    graph: fx.Graph, model: nn.Module, original: nn.Module, constants: Mapping[str, Any], buffers_are_values: bool
) -> None:
    """Replace flags that were baked from ``self.training`` by reads of it."""
    if isinstance(model, fx.GraphModule):
        return
    model.train()
    try:
        in_training = _symbolic_trace(model, constants, buffers_are_values)
    except TraceError as error:
        _warn_about_train_mode(model, str(error))
        return
    finally:
        model.eval()
    pairs = list(zip(graph.nodes, in_training.nodes, strict=False))
    if len(graph.nodes) != len(in_training.nodes) or any(
        (a.op, _comparable_target(a)) != (b.op, _comparable_target(b)) for a, b in pairs
    ):
        _warn_about_train_mode(model, "its train-mode graph has other nodes")
        return
    flag: fx.Node | None = None
    twins = {twin: node for node, twin in pairs}
    for node, twin in pairs:
        for name in _argument_names(node):
            ours, theirs = _argument(node, name), fx.map_arg(_argument(twin, name), twins.__getitem__)
            if ours is False and theirs is True and _is_frozen(node, original):
                continue  # its module was in eval mode inside a model in train mode
            if ours is False and theirs is True:
                if flag is None:
                    last_input = [n for n in graph.nodes if n.op == "placeholder"][-1]
                    with graph.inserting_after(last_input):
                        flag = graph.get_attr("training")
                node.update_arg(name, flag) if isinstance(name, int) else node.update_kwarg(name, flag)
            elif str(ours) != str(theirs):
                _warn_about_train_mode(model, f"{node.name} takes other arguments in train mode")


def _is_frozen(node: fx.Node, original: nn.Module) -> bool:
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return original.training and not original.get_submodule(path).training


def _comparable_target(node: fx.Node) -> Any:
    """Return the target, but for constants, which fx numbers anew in every trace."""
    return "_tensor_constant" if str(node.target).startswith("_tensor_constant") else node.target


def _argument_names(node: fx.Node) -> list[int | str]:
    return [*range(len(node.args)), *node.kwargs]


def _argument(node: fx.Node, name: int | str) -> Any:
    return node.args[name] if isinstance(name, int) else node.kwargs[name]


def _warn_about_train_mode(model: nn.Module, reason: str) -> None:
    warnings.warn(
        f"{type(model).__name__} computes something else in train mode ({reason}); "
        "the graph is the eval-mode one, also while it trains",
        FxpruneWarning,
        stacklevel=5,
    )


def _functional_with_shapes(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> None:
    values = propagate_shapes(graph_module, inputs)
    overwriting = [node for node in graph_module.graph.nodes if is_in_place(node)]
    if not overwriting:
        return
    before = {node: tensor_meta(node) for node in overwriting}
    functionalize(graph_module, values)
    propagate_shapes(graph_module, inputs)
    for node, meta in before.items():
        now = tensor_meta(node)
        if meta is not None and (now is None or (meta.shape, meta.dtype) != (now.shape, now.dtype)):
            raise TraceError(f"in-place op at {node.name} changes dtype or shape out of place; write it out of place")


def _path_of(node: fx.Node) -> str:
    """Return the path of the innermost module whose forward made ``node``."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
