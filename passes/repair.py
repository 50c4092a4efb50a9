"""Fit the weights that are left to what the unpruned graph computes, in closed form.

W' x' + b'   ->   (W' + D) x' + b' + d,    D, d: least squares of what W x + b was, on images
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.facts.layer_by_layer import MEMORY, require_bytes
from fxprune.facts.module_uses import CallSites
from fxprune.ir.nodes import TRACE
from fxprune.ir.processes import share_of
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.refit import Reading, reading
from fxprune.rewriting.repairing import Fitting, Repairing, Statistics, Taps


@dataclass(frozen=True)
class Repair(Pass):
    """Fit each conv and linear layer behind a removal to what it computed before, by least squares on images.

    Without a loss and without labels (after CaP, Xie et al., arXiv 2108.13728, who fit the readers of channels on the
    inputs of the unpruned network): the layers are fitted in the order of the graph, each on what it reads once those
    before it are, so that a later one makes up for what an earlier one could not; the last layer of a residual branch
    is fitted to what the sum lacks (both ours). Means go into biases, or into the norm behind. Layers with blocks
    (:class:`MaskPartition`) are fitted inside of them. Of several processes (torchrun) each takes its share of the
    batches.

    Args:
        data: an iterable of inputs, or of pairs of these and labels; by default the graph's example inputs.
        reference: the graph before the removal; in a pipeline what that began with.
        ridge: draws the weights to what they are, in units of the mean variance of what a layer reads; 0: none.
        statistics: "layer after layer", or "once": of what the unpruned graph reads (CaP's).
        taps: each has its own weights ("apart", CaP's), or all make up for a channel alike ("shared", as
            GRAIL has it: fewer unknowns, for few images); layers with groups have theirs apart.
        memory: bytes that values may take in memory; what is more is in temporary files.

    Raises:
        FxpruneError: there is no reference, it is of another network, or there is no space for the values.
        FxpruneValueError: there are no inputs, they do not fit, or what a layer reads holds NaN; names it.
    """

    name: ClassVar[str] = "repair"
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("remove-channels", "remove-layers", "fuse-resconv", "mask-partition")
    data: Any = field(default=None, hash=False, compare=False, repr=False)
    reference: fx.GraphModule | None = field(default=None, hash=False, compare=False, repr=False)
    ridge: float = 0.1
    statistics: Statistics = "layer after layer"
    taps: Taps = "apart"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ridge < math.inf:
            raise FxpruneValueError(f"ridge is a finite number, 0 at least; got {self.ridge}")
        require_bytes(self.memory)

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Fit the layers of the outermost graph."""
        if self.reference is None:
            raise FxpruneError("repair needs the graph before the removal: give reference=, or a pipeline with both")
        if self.reference.meta.get(TRACE) != graphs[0][1].meta.get(TRACE):
            raise FxpruneError(
                "reference is of another network, or trace: give the graph that this one was made from"
            )
        samples = Samples.of(graphs[0][1], self.data)
        batches = list(samples)
        if not batches:
            raise FxpruneValueError("there are no images to fit layers on: give data=")
        if samples.advice:
            log.warn(f"layers were fitted on {samples.advice}")
        fitting = Fitting(self.ridge, self.statistics, self.taps, self.memory)
        Repairing(self.reference, graphs[0][1], share_of(batches), fitting, log, self.name)()
        for log.region, graph in graphs[1:]:
            sites = CallSites(graph)
            for node in graph.graph.nodes:
                if isinstance(reading(node, sites), Reading):
                    log.decline(node, "it is in an opaque module, whose inputs are not known one by one")
        log.region = ""
