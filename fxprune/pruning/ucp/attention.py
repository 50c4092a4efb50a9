"""Gates behind the convs that are judged, and what they say once they are trained.

attended = insert_attention(traced).graph_module        # train it, from scratch
gates = measure_attention(attended, loader)             # {"conv1": array([0.52, 0.49, ...]), ...}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx, nn

from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneError, FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.gates.channel_attention import ChannelAttention
from fxprune.ir.arguments import require_arguments
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, called_module, graphs_of, input_at, require_graph
from fxprune.ir.processes import is_one_of_several, sum_up
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

    Images are looked at a batch at a time, and none is kept. Of a conv that is called several times it is the mean
    over its calls. Several processes all call it, each with its share: the means are over the images of all.

    Args:
        graph_module: a graph with gates of :class:`fxprune.passes.InsertChannelAttention`; it is not changed.
        data: an iterable of inputs, or of pairs of these and labels; by default the graph's example inputs.

    Raises:
        FxpruneError: it has no such gates, there are no images, or they do not fit.
        FxpruneValueError: a gate is NaN.
    """
    require_arguments(measure_attention, locals())
    graph_module = require_graph(graph_module, "measure_attention")
    gates = list(_gates(graph_module))
    if not gates:
        raise FxpruneError("the graph has no gates of channel attention: insert_attention puts them in")
    sums = {path: _Sum(gate.channels) for path, gate in gates}
    with keeping_state(graph_module), evaluating(graph_module), ExitStack() as held:
        for path, gate in gates:
            held.callback(gate.attention.register_forward_hook(sums[path].note).remove)
        for batch in Samples.of(graph_module, _Once(data) if isinstance(data, Iterator) else data):
            try:
                graph_module(*as_taken_now(graph_module, batch.inputs))
            except RuntimeError as error:
                raise FxpruneValueError(f"the graph does not take a batch of data: {first_line(error)}") from error
    device = next(graph_module.parameters()).device
    return {path: one.mean(path, device) for path, one in sums.items()}


class _Once:
    """What can be read only once, and is: of an iterator, samples would keep all batches to read them again."""

    def __init__(self, given: Iterator[Any]) -> None:
        self._given = given

    def __iter__(self) -> Iterator[Any]:
        return self._given


def _gates(graph_module: fx.GraphModule) -> Iterator[tuple[str, ChannelAttention]]:
    """Yield every gate, with the path of the conv that it is behind."""
    for region, graph in graphs_of(graph_module):
        for node in graph.graph.nodes:
            gate = called_module(node)
            if isinstance(gate, ChannelAttention):
                conv = input_at(node)
                path = str(conv.target) if conv.op == "call_module" else conv.name
                yield f"{region}.{path}" if region else path, gate


class _Sum:
    """The sum of gates over images, (C,), in float64, and how many there were."""

    def __init__(self, channels: int) -> None:
        self._sum = torch.zeros(channels + 1, dtype=torch.float64)

    def note(self, layer: nn.Module, _: Any, gates: torch.Tensor) -> None:
        """Add gates (N, C), as a hook on what computes them."""
        rows = gates.detach().cpu().double()
        self._sum += torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])

    def mean(self, path: str, device: torch.device) -> Worth:
        """Return the mean over the images of all processes, which talk over ``device``."""
        over_all = self._sum.to(device) if is_one_of_several() else self._sum
        sum_up(over_all)
        count = float(over_all[-1])
        if not count:
            raise FxpruneError("there are no images to measure gates on: give data=")
        if not bool(over_all.isfinite().all()):
            raise FxpruneValueError(f"the gates behind {path} are NaN: train the network with a lower learning rate")
        found: Worth = (over_all[:-1] / count).cpu().numpy()
        return found
