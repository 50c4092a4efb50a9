"""Gates behind the convs that are judged, and what they say once they are trained.

attended = insert_attention(traced).graph_module        # train it, from scratch
gates = measure_attention(attended, loader)             # {"conv1": array([0.52, 0.49, ...]), ...}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneError, FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.ir.arguments import require_arguments
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, called_module, graphs_of, input_at, require_graph
from fxprune.ir.trace_notes import hiding_convs
from fxprune.passes import InsertChannelAttention
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.structures.channels.running import Worth

_TOLD = 3  # so many reasons are told


def insert_attention(
    graph_module: fx.GraphModule, *, keep: Sequence[str] = (), only: Sequence[str] = (), seed: int = 0
) -> PipelineResult:
    """Put a gate behind each conv that is judged, as :class:`fxprune.passes.InsertChannelAttention`.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed, and shares its layers.
        keep, only: patterns over the paths of layers whose channels stay (see :mod:`fxprune.choosing.keeping`).
        seed: of the gates' weights.

    Raises:
        FxpruneError: no conv can be judged (says why), or a pattern matches nothing.
    """
    require_arguments(insert_attention, locals())
    result = Pipeline([InsertChannelAttention(seed=seed, keep=keep, only=only)], verify=False)(graph_module)
    if result.modified:
        return result
    reasons = Counter(site.why for site in result.declined).most_common(_TOLD)
    why = "; ".join(f"of {count} {reason}" if count > 1 else reason for reason, count in reasons)
    hidden = "".join(f"; {one}" for one in hiding_convs(graph_module)[:1])
    raise FxpruneError(
        f"the model has no conv whose channels can be judged: {why or 'it has no convs at all'}{hidden}"
    )


def measure_attention(graph_module: fx.GraphModule, data: Iterable[Any] | None = None) -> dict[str, Worth]:
    """Return the mean gate of each channel over images, in eval mode, by the paths of the convs; (C,), float64.

    Images are looked at a batch at a time. Of a conv that is called several times it is the mean over its calls.

    Args:
        graph_module: a graph with gates of :class:`fxprune.passes.InsertChannelAttention`; it is not changed.
        data: an iterable of inputs, or of pairs of these and labels; by default the graph's example inputs.

    Raises:
        FxpruneError: it has no such gates, there are no images, or they do not fit.
        FxpruneValueError: a gate is NaN.
    """
    require_arguments(measure_attention, locals())
    graph_module = require_graph(graph_module, "measure_attention")
    sums: dict[str, torch.Tensor] = {}
    counts: Counter[str] = Counter()
    with keeping_state(graph_module), evaluating(graph_module), ExitStack() as held:
        gates = list(_gates(graph_module))
        if not gates:
            raise FxpruneError("the graph has no gates of channel attention: insert_attention puts them in")
        for path, gate in gates:
            note = partial(_note, path, sums, counts)
            held.callback(gate.attention.register_forward_hook(note).remove)
        for batch in Samples.of(graph_module, data):
            try:
                graph_module(*as_taken_now(graph_module, batch.inputs))
            except RuntimeError as error:
                raise FxpruneValueError(f"the graph does not take a batch of data: {first_line(error)}") from error
    if not counts:
        raise FxpruneError("there are no images to measure gates on: give data=")
    return {path: _mean(path, total, counts[path]) for path, total in sums.items()}


def _gates(graph_module: fx.GraphModule) -> Iterable[tuple[str, ChannelAttention]]:
    """Yield every gate, with the path of the conv that it is behind."""
    for region, graph in graphs_of(graph_module):
        for node in graph.graph.nodes:
            gate = called_module(node)
            if isinstance(gate, ChannelAttention):
                conv = input_at(node)
                path = str(conv.target) if conv.op == "call_module" else conv.name
                yield f"{region}.{path}" if region else path, gate


def _note(
    path: str, sums: dict[str, torch.Tensor], counts: Counter[str], layer: nn.Module, _: Any, gates: torch.Tensor
) -> None:
    total = gates.detach().double().sum(0).cpu()
    sums[path] = sums[path] + total if path in sums else total
    counts[path] += len(gates)


def _mean(path: str, total: torch.Tensor, count: int) -> Worth:
    if not bool(total.isfinite().all()):
        raise FxpruneValueError(f"the gates behind {path} are NaN: train the network with a lower learning rate")
    mean: Worth = (total / count).numpy().astype(np.float64)
    return mean
