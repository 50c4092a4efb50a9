"""A run of an unpruned and a pruned graph side by side, in which the layers of the second are fitted to the first."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import fx

from fxprune.choosing.samples import Batch
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.facts.counterparts import Counterpart, counterparts
from fxprune.facts.layer_by_layer import LayerByLayer, bytes_held, room_for
from fxprune.facts.module_uses import CallSites
from fxprune.facts.shapes import shape
from fxprune.ir.nodes import as_taken_now
from fxprune.ir.processes import is_one_of_several, sum_up, total
from fxprune.ir.time_left import Progress
from fxprune.ir.weight_blocks import WeightBlocks, blocks_of
from fxprune.rewriting.contract import Log
from fxprune.rewriting.refit import Reading, at_once, missed, put, reading, told
from fxprune.rewriting.rewriter import Rewriter
from fxprune.rewriting.shared_taps import SharedTaps, shares_taps
from fxprune.structures.summands import Summand, summand
from fxprune.weights.block_sums import BlockSums
from fxprune.weights.least_squares import Moments, Rows

_LOG = logging.getLogger(__name__)
Statistics = Literal["layer after layer", "once"]
Taps = Literal["apart", "shared"]
Sums = Moments | Rows | BlockSums
_UNCHANGED = 1e-12
_ROUNDED = 8
_WIDE = 4096
_ENOUGH = 8192
_COPIES = 4


class Fitting(NamedTuple):
    """How layers are fitted, see :class:`fxprune.passes.Repair`.

    ``samples`` is about how many places of a layer's outputs are looked at, for each number that one of them reads,
    spread over all images; None: all.
    """

    ridge: float
    statistics: Statistics
    taps: Taps
    memory: int
    samples: int | None = None


class Repairing:
    """Fits the layers of ``pruned``, in place; ``log`` is told of each.

    Args:
        reference: the unpruned graph.
        pruned: what passes made of it.
        batches: what to fit on; of several processes each has its share.
        fitting: how.
        log: of the pass.
        made_by: its name.
    """

    def __init__(
        self,
        reference: fx.GraphModule,
        pruned: fx.GraphModule,
        batches: Sequence[Batch],
        fitting: Fitting,
        log: Log,
        made_by: str,
    ) -> None:
        self._reference, self._pruned = reference, pruned
        self._fitting = fitting
        self._others = counterparts(pruned, reference)
        self._sites = CallSites(pruned)
        self._rewriter = Rewriter(pruned, log, made_by)
        self._inputs = [as_taken_now(pruned, batch.inputs) for batch in batches]
        self._own_images = sum(batch.size for batch in batches)
        self._images = total(self._own_images, next((one.device for one in pruned.parameters()), None))
        self._few: dict[str, int] = {}
        self._places = {node: place for place, node in enumerate(pruned.graph.nodes)}
        self._readings = self._found()

    def _found(self) -> list[Reading]:
        """Return the layers that can be fitted, in the order of the graph."""
        found = []
        for node in self._pruned.graph.nodes:
            one = reading(node, self._sites)
            if isinstance(one, Reading) and node not in self._others:
                one = "nothing in the unpruned graph computes what it does"
            elif isinstance(one, Reading) and self._is_once and one.source not in self._others:
                one = "nothing in the unpruned graph computes what it reads"
            elif isinstance(one, Reading) and self._shares_taps(one) and not self._taps(one).has_old_weights():
                one = "its weights are not those of the unpruned graph any more, to which shared taps would be added"
            blocks = _blocks(one) if isinstance(one, Reading) else None
            if blocks is not None and blocks.has_rest:
                one = "what lay across its blocks is added to it in part: those behind it make up for the rest"
            if isinstance(one, str):
                self._rewriter.log.decline(node, one)
            elif one is not None:
                found.append(one)
        return found

    @property
    def _is_once(self) -> bool:
        return self._fitting.statistics == "once"

    def __call__(self) -> None:
        """Fit all layers."""
        needed = bytes_held(self._reference, self._own_images) + bytes_held(self._pruned, self._own_images)
        with ExitStack() as held:
            folder = held.enter_context(room_for(needed, self._fitting.memory))
            before = LayerByLayer(self._reference, self._inputs, self.compared, folder)
            after = LayerByLayer(self._pruned, self._inputs, (), folder)
            held.enter_context(after.running())  # the first: layers that both share have the modes of this one
            self.fit(held.enter_context(before.running()), after)
        self._warn_of_few()

    @cached_property
    def compared(self) -> dict[fx.Node, Reading]:
        """The nodes of the unpruned graph that layers are compared with, with the last of these."""
        return {node: one for one in self._readings for node in self._compared(one)}

    def fit(self, before: LayerByLayer, after: LayerByLayer, most: int | None = None) -> None:
        """Fit all layers that the runs of both graphs are still to come to, or ``most`` of those that change."""
        # asked before any is fitted: for a sum the run of the unpruned graph goes ahead
        to_come = [one for one in self._readings if not before.is_past(self._others[one.node].node)]
        changed, progress = 0, Progress(_LOG, len(to_come))
        for index, one in enumerate(to_come):
            if changed == most:
                return
            if most is None:
                progress.tell(index, f"fitting {one.node.target}")
            changed += self._fit(one, before, after)
            for node in self._compared(one):
                if self.compared[node] is one:
                    before.release(node)

    def _compared(self, one: Reading) -> list[fx.Node]:
        """Return the nodes of the unpruned graph whose values it takes to fit a layer."""
        found = [self._others[one.node].node]
        if self._is_once or self._shares_taps(one):
            found.append(self._others[one.source].node)
        term = self._term(one)
        return found if term is None else [*found, self._others[term.addition].node]

    def _shares_taps(self, one: Reading) -> bool:
        if _blocks(one) is not None:
            return False
        return self._fitting.taps == "shared" and one.source in self._others and shares_taps(one)

    def _taps(self, one: Reading) -> SharedTaps:
        return SharedTaps(one, self._others[one.node], self._others[one.source])

    def _term(self, one: Reading) -> Summand | None:
        """Return the sum that a layer is to make up for."""
        if self._is_once or self._shares_taps(one):
            return None
        term = summand(one.node)
        if term is None or term.addition not in self._others:
            return None
        is_alike = shape(one.node) == shape(term.other) == shape(term.addition)
        return term if is_alike else None

    def _fit(self, one: Reading, before: LayerByLayer, after: LayerByLayer) -> bool:
        """Fit one layer to what the unpruned graph computes there; say whether it has changed."""
        for node in self._compared(one):
            before.until(node)
        if self._is_once:
            read = _left(self._others[one.source], before)
        else:
            after.until(one.source)
            read = after.values(one.source)
        if self._shares_taps(one):
            return self._share(one, read, before.values(self._others[one.source].node))
        wanted = self._wanted(one, before, after)
        samples = sum(value.numel() for value in wanted) // (one.geometry.groups * one.geometry.rows)
        every = self._every(one, samples)
        sums = self._sums(one, samples // every, wanted)
        if sums is None:
            return False
        for x, y in zip(read, wanted, strict=True):
            for parts in at_once(one, x, y):
                sums.add(*missed(one, *parts, every=every))
        return self._put(one, sums)

    def _every(self, one: Reading, samples: int) -> int:
        """Return of how many samples one is looked at: an odd number, which meets all columns of an image."""
        if self._fitting.samples is None:
            return 1
        enough = max(_ENOUGH, self._fitting.samples * one.geometry.columns)
        return max(1, samples // enough - 1) | 1

    def _sums(self, one: Reading, samples: int, wanted: Sequence[torch.Tensor]) -> Sums | None:
        """Return what sums up what a layer reads; None, and a reason, if that takes too much memory."""
        geometry, blocks = one.geometry, _blocks(one)
        sizes = [(geometry.rows, geometry.columns)] * geometry.groups if blocks is None else blocks.sizes
        columns = max(read for _, read in sizes)
        wide = columns > max(_WIDE, samples) and not is_one_of_several()
        needed = sum(8 * _COPIES * (samples if wide else read) * read for _, read in sizes)
        if needed > max(self._fitting.memory, 1 << 28):
            self._rewriter.log.decline(
                one.node, f"its {columns:,} inputs would take {needed / 1e9:.1f} GB: give it more memory"
            )
            return None
        device = wanted[0].device if wanted else None
        if blocks is not None:
            parts = [Rows() if wide else Moments(1, read, rows, device) for rows, read in sizes]
            return BlockSums(list(blocks.places()), parts)
        return Rows() if wide else Moments(geometry.groups, geometry.columns, geometry.rows, device)

    def _wanted(self, one: Reading, before: LayerByLayer, after: LayerByLayer) -> list[torch.Tensor]:
        """Return what a layer is to compute."""
        wanted = _left(self._others[one.node], before)
        term = self._term(one)
        if term is None or self._places[term.other] > self._places[one.node]:
            return wanted
        after.until(term.other)
        totals = _left(self._others[term.addition], before)
        return [term.wanted(*each) for each in zip(totals, after.values(term.other), wanted, strict=True)]

    def _share(self, one: Reading, read: Sequence[torch.Tensor], whole: Sequence[torch.Tensor]) -> bool:
        """Fit a layer whose taps make up for a channel alike."""
        taps = self._taps(one)
        sums = Moments(1, taps.left, taps.channels, read[0].device if read else None)
        factor = self._others[one.source].factor
        for x, all_of_x in zip(read, whole, strict=True):
            sums.add(*taps.missed(x, all_of_x * factor))
        return self._put(one, sums, taps)

    def _put(self, one: Reading, sums: Sums, taps: SharedTaps | None = None) -> bool:
        """Give a layer the weights that the sums say; say whether it has others now."""
        for part in sums.parts if isinstance(sums, BlockSums) else [sums]:
            if isinstance(part, Moments):
                sum_up(*part.tensors)
                part.count = total(part.count, part.xx.device)
        try:
            fit = sums.fit(self._fitting.ridge)
        except FxpruneError as error:
            raise FxpruneValueError(f"{one.node.target} cannot be fitted: {error}") from error
        if fit.before <= _unchanged(one) * max(fit.total, 1e-300):
            return False
        blocks = _blocks(one)
        columns = one.geometry.columns if taps is None else taps.left
        columns = columns if blocks is None else max(read for _, read in blocks.sizes)
        if sums.count < columns:
            self._few[str(one.node.target)] = math.ceil(self._images * columns / max(sums.count, 1))
        what = "what it computed" if taps is None else "what it read"
        self._rewriter.log.rewrote(one.node, told(fit, self._images, what))
        put(one, fit if taps is None else taps.spread(fit), self._rewriter, self._sites)
        return True

    def _warn_of_few(self) -> None:
        if self._few:
            worst = max(self._few, key=self._few.__getitem__)
            self._rewriter.log.warn(
                f"too few images ({self._images:,}): {len(self._few)} of the layers have more inputs than these give "
                f"samples, and rest on the ridge; {worst} would need {self._few[worst]:,}"
            )


def _blocks(one: Reading) -> WeightBlocks | None:
    """Return the blocks of a layer, which hold when it is fitted."""
    weight: torch.Tensor = one.layer.weight  # type: ignore[assignment]
    return blocks_of(one.node, weight) if one.geometry.kind == "linear" else None


def _unchanged(one: Reading) -> float:
    """Return which share of a layer's variance is no more than rounding."""
    weight: torch.Tensor = one.layer.weight  # type: ignore[assignment]
    return max(_UNCHANGED, (_ROUNDED * torch.finfo(weight.dtype).eps) ** 2)


def _left(one: Counterpart, run: LayerByLayer) -> list[torch.Tensor]:
    return [one.of(value) for value in run.values(one.node)]
