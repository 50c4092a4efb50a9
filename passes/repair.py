"""Fit the weights that are left to what the unpruned graph computes, in closed form.

W' x' + b'   ->   (W' + D) x' + b' + d,    D, d: least squares of what W x + b was, on images
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import fx

from fxprune.choosing.samples import Batch, Samples
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.facts.counterparts import Counterpart, counterparts
from fxprune.facts.layer_by_layer import MEMORY, LayerByLayer, bytes_held, room_for
from fxprune.facts.module_uses import CallSites
from fxprune.facts.shapes import shape
from fxprune.ir.nodes import as_taken_now
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.refit import Reading, at_once, missed, put, reading, told
from fxprune.rewriting.rewriter import Rewriter
from fxprune.structures.summands import Summand, summand
from fxprune.weights.least_squares import Moments

Statistics = Literal["layer after layer", "once"]


@dataclass(frozen=True)
class Repair(Pass):
    """Fit each conv and linear layer behind a removal to what it computed before, by least squares on images.

    Without a loss and without labels (after CaP, Xie et al., arXiv 2108.13728, who fit the readers of channels on the
    inputs of the unpruned network): the layers are fitted in the order of the graph, each on what it reads once those
    before it are, so that a later one makes up for what an earlier one could not; the last layer of a residual branch
    is fitted to what the sum lacks (both ours). Means go into biases, or into the norm behind.

    Args:
        data: an iterable of inputs, or of pairs of these and labels; by default the graph's example inputs.
        reference: the graph before the removal; in a pipeline what that began with.
        ridge: draws the weights to what they are, in units of the mean variance of what a layer reads; 0: none.
        statistics: "layer after layer", or "once": of what the unpruned graph reads (CaP's).
        memory: bytes that values may take in memory; what is more is in a temporary file.

    Raises:
        FxpruneError: there is no reference, or no space for the values.
        FxpruneValueError: the inputs do not fit, or what a layer reads holds NaN; names it.
    """

    name: ClassVar[str] = "repair"
    contract: ClassVar[Contract] = Contract.SIGNATURE
    changes_shapes: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("remove-channels", "remove-layers", "fuse-resconv")
    data: Any = field(default=None, hash=False, compare=False, repr=False)
    reference: fx.GraphModule | None = field(default=None, hash=False, compare=False, repr=False)
    ridge: float = 1e-3
    statistics: Statistics = "layer after layer"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge >= 0:
            raise FxpruneValueError(f"ridge is 0 at least; got {self.ridge}")

    def rewrite_all(self, graphs: Sequence[tuple[str, fx.GraphModule]], log: Log) -> None:
        """Fit the layers of the outermost graph."""
        if self.reference is None:
            raise FxpruneError("repair needs the graph before the removal: give reference=, or a pipeline with both")
        samples = Samples.of(graphs[0][1], self.data)
        if samples.advice:
            log.warn(f"layers were fitted on {samples.advice}")
        batches = list(samples)
        with ExitStack() as held:
            repair = _Repair(self, self.reference, graphs[0][1], batches, log)
            repair.run(held)
        for log.region, graph in graphs[1:]:
            for node in graph.graph.nodes:
                if isinstance(reading(node, CallSites(graph)), Reading):
                    log.decline(node, "it is in an opaque module, whose inputs are not known one by one")
        log.region = ""


class _Repair:
    """A run of both graphs, one layer after the other."""

    def __init__(
        self, options: Repair, reference: fx.GraphModule, pruned: fx.GraphModule, batches: list[Batch], log: Log
    ) -> None:
        self.options = options
        self.pruned, self.reference = pruned, reference
        self.others = counterparts(pruned, reference)
        self.sites = CallSites(pruned)
        self.rewriter = Rewriter(pruned, log, options.name)
        self.images = sum(batch.size for batch in batches)
        self.inputs = [as_taken_now(pruned, batch.inputs) for batch in batches]
        self.readings = self._readings(log)

    def _readings(self, log: Log) -> list[Reading]:
        found = []
        for node in self.pruned.graph.nodes:
            one = reading(node, self.sites)
            if isinstance(one, Reading) and node not in self.others:
                one = "nothing in the unpruned graph computes what it does"
            elif isinstance(one, Reading) and self.options.statistics == "once" and one.source not in self.others:
                one = "nothing in the unpruned graph computes what it reads"
            if isinstance(one, str):
                log.decline(node, one)
            elif one is not None:
                found.append(one)
        return found

    def run(self, held: ExitStack) -> None:
        """Fit all layers."""
        needed = bytes_held(self.reference, self.images) + bytes_held(self.pruned, self.images)
        folder = held.enter_context(room_for(needed, self.options.memory))
        last = {node: one for one in self.readings for node in self._compared(one)}
        before = held.enter_context(LayerByLayer(self.reference, self.inputs, last, folder).running())
        after = held.enter_context(LayerByLayer(self.pruned, self.inputs, (), folder).running())
        for one in self.readings:
            for node in self._compared(one):
                before.until(node)
            if self.options.statistics == "once":
                read = _left(self.others[one.source], before)
            else:
                after.until(one.source)
                read = after.values(one.source)
            self._fit(one, read, self._wanted(one, before, after))
            for node in self._compared(one):
                if last[node] is one:
                    before.release(node)

    def _compared(self, one: Reading) -> list[fx.Node]:
        """Return the nodes of the unpruned graph whose values it takes to fit a layer."""
        own = self.others[one.node].node
        if self.options.statistics == "once":
            return [own, self.others[one.source].node]
        term = self._term(one)
        return [own] if term is None else [own, self.others[term.addition].node]

    def _term(self, one: Reading) -> Summand | None:
        """Return the sum that a layer is to make up for."""
        term = summand(one.node)
        if term is None or self.options.statistics == "once" or term.addition not in self.others:
            return None
        return term if shape(term.other) == shape(term.addition) else None

    def _wanted(self, one: Reading, before: LayerByLayer, after: LayerByLayer) -> list[torch.Tensor]:
        """Return what a layer is to compute."""
        wanted = _left(self.others[one.node], before)
        term = self._term(one)
        if term is None or not after.is_known(term.other):
            return wanted
        totals = _left(self.others[term.addition], before)
        return [term.wanted(*each) for each in zip(totals, after.values(term.other), wanted, strict=True)]

    def _fit(self, one: Reading, read: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
        geometry = one.geometry
        moments = Moments(geometry.groups, geometry.columns, geometry.rows, read[0].device)
        for x, y in zip(read, wanted, strict=True):
            for parts in at_once(one, x, y):
                moments.add(*missed(one, *parts))
        try:
            fit = moments.fit(self.options.ridge)
        except FxpruneError as error:
            raise FxpruneValueError(f"{one.node.target} cannot be fitted: {error}") from error
        if fit.before <= 1e-12 * max(fit.total, 1e-300):
            return
        self.rewriter.log.rewrote(one.node, told(fit, self.images))
        put(one, fit, self.rewriter, self.sites)


def _left(one: Counterpart, run: LayerByLayer) -> list[torch.Tensor]:
    return [one.of(value) for value in run.values(one.node)]
