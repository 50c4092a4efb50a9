"""Measure the running statistics of batch norms anew, on images.

norm(x; mean, var)   ->   norm(x; E x, var x)        x: what the norm reads, once those before it were measured
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneValueError
from fxprune.facts.layer_by_layer import MEMORY, LayerByLayer, bytes_held, require_bytes, room_for
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.ir.nodes import as_taken_now, called_module, graphs_of, input_at
from fxprune.ir.processes import share_of, sum_up, total
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.rewriter import Rewriter
from fxprune.weights.channel_moments import ChannelMoments
from fxprune.weights.folding import norm_obstacle
from fxprune.weights.slicing import with_tensors


@dataclass(frozen=True)
class MeasureNorms(Pass):
    """Give each batch norm the mean and the variance of what it reads on images, in the order of the graph.

    Of all images at once, and of each norm once those before it are measured: no batch size matters. (Training's own
    running statistics are of single batches, each normalised by itself.)

    Args:
        data: an iterable of inputs, or of pairs of these and labels; by default the graph's example inputs.
        memory: bytes that values may take in memory; what is more is in a temporary file.

    Raises:
        FxpruneValueError: there are no inputs, they do not fit, or what a norm reads is not finite; names it.
    """

    name: ClassVar[str] = "measure-norms"
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("remove-channels", "remove-layers", "repair")
    data: Any = field(default=None, hash=False, compare=False, repr=False)
    memory: int = MEMORY

    def __post_init__(self) -> None:
        super().__post_init__()
        require_bytes(self.memory)

    def may_apply(self, graph_module: fx.GraphModule) -> bool:
        """Say whether there is a batch norm."""
        return any(isinstance(one, NORM_CLASSES) for one in graph_module.modules())

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Measure the norms of the outermost graph."""
        graph_module = graphs[0][1]
        samples = Samples.of(graph_module, self.data)
        if samples.advice:
            log.warn(f"norms were measured on {samples.advice}")
        every = list(samples)
        if not every:
            raise FxpruneValueError("there are no images to measure norms on: give data=")
        batches = share_of(every)
        own = sum(batch.size for batch in batches)
        images = total(own, next((one.device for one in graph_module.parameters()), None))
        inputs = [as_taken_now(graph_module, batch.inputs) for batch in batches]
        rewriter, sites = Rewriter(graph_module, log, self.name), CallSites(graph_module)
        with ExitStack() as held:
            folder = held.enter_context(room_for(bytes_held(graph_module, own), self.memory))
            run = held.enter_context(LayerByLayer(graph_module, inputs, folder=folder).running())
            for node, norm in _norms(graph_module, sites, log):
                run.until(input_at(node))
                rewriter.log.rewrote(node, f"measured on {images:,} images")
                rewriter.set_layer(node, _measured(node, norm, run.values(input_at(node))))
        for log.region, graph in graphs_of(graph_module)[1:]:
            for node, _ in _norms(graph, CallSites(graph), log):
                log.decline(node, "it is in an opaque module, whose inputs are not known one by one")
        log.region = ""


def _norms(graph_module: fx.GraphModule, sites: CallSites, log: Log) -> list[tuple[fx.Node, nn.Module]]:
    """Return the norms that can be measured."""
    found: list[tuple[fx.Node, nn.Module]] = []
    for node in graph_module.graph.find_nodes(op="call_module"):
        norm = called_module(node)
        if isinstance(norm, NORM_CLASSES):
            obstacle = own_module(norm, NORM_CLASSES, sites) or norm_obstacle(norm, model_is_training=True)
            if obstacle is None:
                found.append((node, norm))
            else:
                log.decline(node, obstacle)
    return found


def _measured(node: fx.Node, norm: nn.Module, values: Sequence[torch.Tensor]) -> nn.Module:
    moments = ChannelMoments(norm.running_mean)  # type: ignore[arg-type]
    for value in values:
        moments.add(value)
    sum_up(*moments.sums)
    mean, variance = moments.mean, moments.variance
    if not bool(mean.isfinite().all() & variance.isfinite().all()):
        raise FxpruneValueError(f"what {node.target} reads on these images holds NaN or infinity")
    old: torch.Tensor = norm.running_mean  # type: ignore[assignment]
    return with_tensors(norm, {"running_mean": mean.to(old), "running_var": variance.to(old)})
