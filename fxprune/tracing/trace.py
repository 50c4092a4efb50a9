"""The front end: an nn.Module and example inputs become a functional GraphModule with shapes and origins.

    graph_module = fxprune.trace(model, torch.randn(1, 3, 224, 224))

The model is deep-copied first and never touched (its weights are shared on request). The graph is traced in eval
mode; where the train-mode trace differs only in a flag (``F.dropout(..., training=self.training)``), the flag becomes
a read of ``self.training``; where it differs by more, both are merged into one graph that holds either (see
:mod:`fxprune.ir.by_mode`). So the graph trains as the model does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from typing import Any

from torch import fx, nn

from fxprune.costs.macs import batch_size, total_macs
from fxprune.errors import TraceError, first_line
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import unwrapped
from fxprune.ir.module_tree import CALLS, PER_SAMPLE, every_path, outside_inference_mode, regions_in
from fxprune.ir.nodes import TRACE, TRACED_MACS, called_module, graphs_of
from fxprune.ir.trace_notes import warn_of_hidden_convs
from fxprune.ir.wrappers import reaches_inside, uncompiled
from fxprune.tracing.attempt import TrainMode, attempt
from fxprune.tracing.check import ModelFails, Reference, inputs_do_not_fit, require_finite
from fxprune.tracing.inputs import Call, bind
from fxprune.tracing.own_modes import copied_in_eval_mode, has_own_modes, keeping_weights, tell_of_own_modes
from fxprune.tracing.patches import ONE_AT_A_TIME
from fxprune.tracing.source import line_of_error
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.tiers import Fresh, trace_by_tiers


def trace(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    train_inputs: Any = None,
    check: bool = True,
    share_weights: bool = False,
) -> fx.GraphModule:
    """Trace ``model`` into a GraphModule that computes the same function.

    Args:
        model: any nn.Module; it is copied, never changed. What torch.compile, DataParallel and
            DistributedDataParallel wrap, at the root or below, is traced as if it were not wrapped.
        example_inputs: the one input that ``model`` takes, a tensor, list or dict, or the tuple of its inputs, which
            may be such nests too. They fix the shapes that costs and eligibility are worked out for (the graph itself
            stays free in the batch size), they are what passes are verified on, and :class:`fxprune.ProximalL1`
            measures the layers' inputs with them: a small batch of real data is best. Arguments of ``forward`` that
            they do not cover take their defaults.
        example_kwargs: inputs by keyword; they become inputs of the graph under the same names.
        train_inputs: the inputs in train mode where they differ (a detector's images and targets), given as
            ``example_inputs`` are; those that evaluation lacks are None there.
        check: require finite weights, and call model and graph on the example inputs, twice each, and compare what
            they return.
        share_weights: let the graph hold the model's own parameters and buffers, as torch.fx.symbolic_trace does,
            and no copies: it takes less time and memory, and to train the graph is to train the model. Passes never
            write to them. Tracing changes none; a model whose ``eval()`` does is refused.

    Warns:
        FxpruneWarning: a part that cannot be traced hides convs: names it, the reason, and what to do.

    Returns:
        A GraphModule without in-place ops, with ``tensor_meta`` and origins on every node, in the train or
        eval mode of ``model``. What it takes for granted about its inputs, because the model branches on it, is in
        ``fxprune.ir.trace_notes.assumptions_of``, and checked whenever it runs.

    Raises:
        TraceError: the model cannot be traced (names the source line), the inputs do not fit (names the node), or a
            wrapper cannot be looked through (FSDP, one with hooks).
        FxpruneError: with ``check``, a parameter holds NaN or Inf (names it).
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected an nn.Module to trace, got {type(model).__name__}")
    require_arguments(trace, locals())
    model = unwrapped(model)
    if check:
        require_finite(model)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    call = bind(model, inputs, example_kwargs or {})
    train_call = call if train_inputs is None else _train_call(model, train_inputs, call)
    flags = {path: module.training for path, module in every_path(model).items()}
    graph_module = _traced(model, (call, train_call), flags, check=check, share_weights=share_weights)
    _note_structure(graph_module)
    warn_of_hidden_convs(graph_module, stacklevel=2)
    return graph_module


def _traced(
    model: nn.Module,
    calls: tuple[Call, Call],
    flags: Mapping[str, bool],
    *,
    check: bool,
    share_weights: bool,
) -> fx.GraphModule:
    """Trace ``model``, without wrappers, on ``calls``, that of eval mode and that of train mode."""
    fresh = partial(copied_in_eval_mode, model, share_weights=share_weights)
    has_own = has_own_modes(model)
    kept = keeping_weights(model) if share_weights and (check or has_own) else nullcontext()
    with ONE_AT_A_TIME, outside_inference_mode(), kept, uncompiled(tracing=True):
        if has_own:
            tell_of_own_modes(model, share_weights=share_weights)
        expected = Reference(fresh() if has_own else model, calls[0]) if check else None
        try:
            return trace_by_tiers(fresh, *calls, flags, expected)
        except ModelFails as failure:
            raise _refusal(model, failure.error, fresh, calls[0], flags) from failure.error


def _note_structure(graph_module: fx.GraphModule) -> None:
    """Note the MACs that were traced, and what the graph is recognised by."""
    graphs = graphs_of(graph_module)
    if len(graphs) > 1:
        _count_calls_per_sample(graph_module, Fraction(batch_size(graph_module)))
    for _, graph in graphs:
        graph.meta[TRACED_MACS] = total_macs(graph)
    graph_module.meta[TRACE] = _fingerprint(graphs)


def _train_call(model: nn.Module, train_inputs: Any, call: Call) -> Call:
    """Bind the inputs of train mode; raises TraceError if they lack one of ``call``, that of eval mode."""
    inputs = train_inputs if isinstance(train_inputs, tuple) else (train_inputs,)
    bound = bind(model, inputs, {})
    missing = {one.name for one in call.arguments} - {one.name for one in bound.arguments}
    if missing:
        raise TraceError(f"train_inputs lack {min(missing)}, which example_inputs give; give all inputs of forward")
    return bound


def _fingerprint(graphs: Sequence[tuple[str, fx.GraphModule]]) -> str:
    """Return a name for a traced graph and its regions: origins mean the same nodes in all graphs that have it.

    It is that of the network's structure, so that two traces of one network, on whatever inputs, share it.
    """
    lines = [
        f"{region} {n.name} {n.op} {getattr(n.target, '__name__', n.target)} {[s.name for s in n.all_input_nodes]}"
        for region, graph in graphs
        for n in graph.graph.nodes
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _count_calls_per_sample(graph_module: fx.GraphModule, batch: Fraction) -> None:
    """Note in every region what its MACs are divided by to be those of one sample of the whole graph."""
    modules = {called_module(node) for node in graph_module.graph.nodes} - {None}
    for module in modules:
        for _, region in regions_in(module) if module is not None else ():
            region.meta[PER_SAMPLE] = batch / region.meta[CALLS]
            _count_calls_per_sample(region, region.meta[PER_SAMPLE])


def _refusal(model: nn.Module, error: Exception, fresh: Fresh, call: Call, flags: Mapping[str, bool]) -> TraceError:
    """Return what says that ``model`` does not take the inputs, on which it raised ``error``: the node if it can."""
    if reaches_inside(error):
        return TraceError(
            f"{line_of_error(error)}: {first_line(error)}: wrappers (DataParallel, torch.compile) are looked "
            "through while a model is traced; call what is wrapped without asking for it, or take the wrapper off"
        )
    try:
        attempt(fresh(), call, flags, SymbolicTracer(call), TrainMode(call, (lambda: SymbolicTracer(call),)))
    except TraceError as better:
        if "do not fit" in str(better):
            return better
    return inputs_do_not_fit(model, error)
