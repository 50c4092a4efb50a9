"""The front end: an nn.Module and example inputs become a functional GraphModule with shapes and origins.

    graph_module = fxprune.trace(model, torch.randn(1, 3, 224, 224))

The model is deep-copied first and never touched (its weights are shared on request). The graph is traced in eval
mode; where the train-mode trace differs only in a flag (``F.dropout(..., training=self.training)``), the flag becomes
a read of ``self.training``, so that the graph still trains as the model does.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import fx, nn

from fxprune.copies import copy_module
from fxprune.errors import FxpruneWarning, TraceError, first_line
from fxprune.facts.costs import batch_size, total_macs
from fxprune.graph import TRACE, TRACED_MACS, called_module, graphs_of
from fxprune.module_tree import CALLS, PER_SAMPLE, every_module, every_path, put_in_eval_mode, regions_in
from fxprune.tracing.attempt import attempt
from fxprune.tracing.check import Expected, reference_outputs, require_finite
from fxprune.tracing.inputs import Call, bind
from fxprune.tracing.notes import warn_of_hidden_convs
from fxprune.tracing.symbolic import SymbolicTracer
from fxprune.tracing.tiers import Fresh, inputs_do_not_fit, trace_by_tiers

_ONE_AT_A_TIME = threading.RLock()  # what tracing replaces is the whole process's: nn.Module's __getattr__, for one


def trace(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    check: bool = True,
    share_weights: bool = False,
) -> fx.GraphModule:
    """Trace ``model`` into a GraphModule that computes the same function.

    Args:
        model: any nn.Module; it is copied, never changed.
        example_inputs: the one input that ``model`` takes, a tensor, list or dict, or the tuple of its inputs, which
            may be such nests too. They fix the shapes that costs and eligibility are worked out for (the graph itself
            stays free in the batch size), they are what passes are verified on, and :class:`fxprune.ProximalL1`
            measures the layers' inputs with them: a small batch of real data is best. Arguments of ``forward`` that
            they do not cover take their defaults.
        example_kwargs: inputs by keyword; they become inputs of the graph under the same names.
        check: require finite weights, and call model and graph on the example inputs, twice each, and compare what
            they return.
        share_weights: let the graph hold the model's own parameters and buffers, as torch.fx.symbolic_trace does,
            and no copies: it takes less time and memory, and to train the graph is to train the model. Passes never
            write to them.

    Warns:
        FxpruneWarning: a part that cannot be traced hides convs: names it, the reason, and what to do.

    Returns:
        A GraphModule without in-place ops, with ``tensor_meta`` and origins on every node, in the train or
        eval mode of ``model``. What it takes for granted about its inputs, because the model branches on it, is in
        ``fxprune.tracing.notes.assumptions_of``, and checked whenever it runs.

    Raises:
        TraceError: the model cannot be traced (names the source line), or the inputs do not fit (names the node).
        FxpruneError: with ``check``, a parameter holds NaN or Inf (names it).
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected an nn.Module to trace, got {type(model).__name__}")
    if check:
        require_finite(model)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    call = bind(model, inputs, example_kwargs or {})
    flags = {path: module.training for path, module in every_path(model).items()}

    def fresh() -> nn.Module:
        try:
            own = copy_module(model, share_weights=share_weights)
            put_in_eval_mode(own)
        except Exception as error:
            raise TraceError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error
        return own

    with _ONE_AT_A_TIME:
        _warn_of_own_train(model)
        expected = _expected(model, fresh, call, flags) if check else None
        graph_module = trace_by_tiers(fresh, call, flags, expected)
    graphs = graphs_of(graph_module)
    if len(graphs) > 1:
        _count_calls_per_sample(graph_module, Fraction(batch_size(graph_module)))
    for _, graph in graphs:
        graph.meta[TRACED_MACS] = total_macs(graph)
    graph_module.meta[TRACE] = _fingerprint(graphs)
    warn_of_hidden_convs(graph_module, stacklevel=2)
    return graph_module


def _warn_of_own_train(model: nn.Module) -> None:
    """Warn if ``train()`` of the model keeps a part of it in eval mode: a graph's puts all of it in train mode."""
    if all(type(one).train is nn.Module.train for one in every_module(model)):
        return
    try:
        flags = {path: one.training for path, one in every_path(copy_module(model).train(True)).items()}
    except Exception:
        return  # it cannot be told now
    frozen = [path for path, training in flags.items() if not training]
    if frozen:
        warnings.warn(
            f"{type(model).__name__}.train() leaves {', '.join(frozen[:3])}{' and others' if frozen[3:] else ''} in "
            "eval mode; train() of the graph does not: call graph.get_submodule(path).eval() after it",
            FxpruneWarning,
            stacklevel=3,
        )


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


def _expected(model: nn.Module, fresh: Fresh, call: Call, flags: Mapping[str, bool]) -> list[Expected]:
    """Return what ``model`` returns; raises TraceError if it does not take the inputs, naming the node if it can."""
    try:
        return reference_outputs(model, call)
    except Exception as error:
        refusal, own = inputs_do_not_fit(model, error), fresh()
        try:
            attempt(own, call, flags, lambda: SymbolicTracer(call))
        except TraceError as better:
            if "do not fit" in str(better):
                refusal = better
        raise refusal from error
