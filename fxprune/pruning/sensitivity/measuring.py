"""What single removals, and networks that are cut, do to the outputs on samples; in bounded memory, with what is left
of the time told by logging.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import fx

from fxprune.choosing.samples import Batch, Samples
from fxprune.costs.activation_memory import peak_activation_bytes
from fxprune.costs.macs import node_macs
from fxprune.errors import FxpruneError, FxpruneValueError, first_line
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, place
from fxprune.ir.pytrees import map_tensors, tensors_in
from fxprune.pruning.sensitivity.mixed_batches import batches_of, drawn
from fxprune.pruning.sensitivity.output_change import Change, Reference, is_finite, is_logits
from fxprune.pruning.sensitivity.removal_runs import Run, Runs
from fxprune.structures.channels.groups import Channels

_LOG = logging.getLogger(__name__)
_LARGEST_BATCH = 64
_BYTES = 512 * 2**20
_HELD = 3  # values of the whole run, of the one without something, and what kernels take beside
LEAST_IMAGES = 64
_PRECISE = 0.1  # a standard error of this share of what is measured is enough


class Measuring:
    """Compares outputs with those of one network, on samples in an order of its own.

    Args:
        channels: of the network, in eval mode.
        samples: what to compare on.
        images: so many of them at most.
        labels: whether labels are looked at: None where there are any.

    Attributes:
        images: how many samples there are.
        has_labels: whether labels are looked at.
        is_logits: whether the outputs are one tensor of logits.

    Raises:
        FxpruneError: the network does not take the samples, its outputs are not finite (names the layer), or labels
            are missing, or none of its classes.
    """

    def __init__(self, channels: Channels, samples: Samples, images: int, labels: bool | None) -> None:
        self._graph_module = channels.graph_module
        self._runs = Runs(channels)
        self._singles = drawn(samples, images)
        self.images = len(self._singles)
        if not self._singles:
            raise FxpruneValueError("there are no samples to measure on: give data= (fxprune sensitivity --data)")
        self._bytes = _HELD * max(peak_activation_bytes(self._graph_module), 1)
        self._size = max(1, min(_LARGEST_BATCH, _BYTES // self._bytes))
        first = next(batches_of(self._singles, self._size))
        self.is_logits = is_logits(self._first_outputs(first))
        self.has_labels = self._looks_at_labels(labels)
        start = time.monotonic()
        self._reference(first)
        self._seconds = (time.monotonic() - start) / first.size

    def _first_outputs(self, first: Batch) -> Any:
        """Return what the network returns for a batch; settles the order of numbers in memory that it takes."""
        why: Exception | None = None
        for self._format in (torch.channels_last, torch.contiguous_format):  # convs are faster in the first
            try:
                return self._whole(first)
            except FxpruneError:
                raise
            except Exception as error:  # views of what is laid out otherwise too
                why = error
        assert why is not None
        shapes = " and ".join("x".join(map(str, one.shape)) for one in tensors_in(first.inputs))
        raise FxpruneError(
            f"the network does not take inputs of shape {shapes}: {first_line(why)}; --image-size sets the side of "
            "images"
        ) from why

    def _looks_at_labels(self, asked: bool | None) -> bool:
        missing = any(one.labels is None for one in self._singles)
        if asked and missing:
            raise FxpruneValueError("labels are asked for, and data has none: give pairs of inputs and labels")
        if asked and not self.is_logits:
            raise FxpruneValueError("labels are asked for, and the outputs are not one tensor of logits (N, classes)")
        return self.is_logits and not missing if asked is None else asked

    def _inputs(self, batch: Batch) -> tuple[Any, ...]:
        def laid_out(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.contiguous(memory_format=self._format) if tensor.dim() == 4 else tensor

        found: tuple[Any, ...] = map_tensors(as_taken_now(self._graph_module, batch.inputs), laid_out)
        return found

    def _whole(self, batch: Batch) -> Any:
        with evaluating(self._graph_module):
            return self._runs.whole(self._inputs(batch))

    def _reference(self, batch: Batch) -> Reference:
        outputs = self._whole(batch)
        if not is_finite(outputs):
            raise FxpruneError(_where_not_finite(self._graph_module, self._inputs(batch)))
        labels = None
        if self.has_labels and batch.labels is not None:
            labels = _checked(batch.labels.to(outputs.device), outputs)
        return Reference(outputs, labels)

    def runs_of(self, runs: Sequence[Run]) -> float:
        """Return how many runs of the whole network ``runs`` are, by MACs; that of the network itself too."""
        costs = self._costs()
        return 1 + sum(costs[run.start] for run in runs)

    def _costs(self) -> Mapping[fx.Node, float]:
        """Return, by node, the share of a run from there on; what costs no MACs counts a little."""
        nodes = list(self._graph_module.graph.nodes)
        macs = [node_macs(node) for node in nodes]
        little = 0.3 * max(sum(macs), 1) / len(nodes)
        left = list(accumulate(reversed([one + little for one in macs])))[::-1]
        return {node: one / left[0] for node, one in zip(nodes, left, strict=True)}

    def takes(self, runs: Sequence[Run]) -> str:
        """Return what it takes to measure ``runs``, at most, for a person."""
        whole = self.runs_of(runs)
        return (
            f"{len(runs)} removals on at most {self.images} samples: at most {whole:.0f} runs of the network over "
            f"these, {told_time(whole * self.images * self._seconds)}, and about "
            f"{self._size * self._bytes / 2**20:.0f} MB beside the samples"
        )

    def of_runs(self, runs: Sequence[Run]) -> tuple[Change, dict[Run, Change]]:
        """Return what the network comes to itself, on all samples, and what each of ``runs`` changes."""
        whole, changes = Change(), {run: Change() for run in runs}
        progress = _Progress(self._costs(), self.images)
        for batch in batches_of(self._singles, self._size):
            before = self._reference(batch)
            whole.add(before, before.outputs, batch.size)
            open_runs = [run for run, change in changes.items() if not _is_known(change)]
            progress.begin(open_runs, whole.images, batch.size)

            def tell(run: Run, outputs: Any, before: Reference = before, size: int = batch.size) -> None:
                changes[run].add(before, outputs, size)
                progress.did(run)

            with evaluating(self._graph_module):
                self._runs.without_each(self._inputs(batch), open_runs, tell)
        return whole, changes

    def of_networks(self, networks: Sequence[fx.GraphModule]) -> list[Change]:
        """Return what each of ``networks`` changes, each the network with something cut, on all samples."""
        changes = [Change() for _ in networks]
        done = 0
        for batch in batches_of(self._singles, self._size) if networks else ():
            _LOG.info("checking %d plans by cutting: sample %d of %d", len(networks), done, self.images)
            before = self._reference(batch)
            for network, change in zip(networks, changes, strict=True):
                with evaluating(network):
                    change.add(before, network(*self._inputs(batch)), batch.size)
            done += batch.size
        return changes


def _is_known(change: Change) -> bool:
    """Say whether a removal need not be measured on more samples."""
    return bool(change.why) or (change.images >= LEAST_IMAGES and change.error <= _PRECISE * change.missed)


def _checked(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return ``labels`` as cross entropy takes them; raises FxpruneValueError if one is no class of ``logits``."""
    if labels.dim() != 1 or labels.is_floating_point():
        raise FxpruneValueError(
            f"labels are whole numbers, one a sample; got {labels.dtype} of {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise FxpruneValueError(
            f"data has label {low if low < 0 else high}, and the network has {logits.shape[1]} outputs"
        )
    return labels.long()


class _Progress:
    """Tells how far the measuring is, and how long it will take at most."""

    def __init__(self, costs: Mapping[fx.Node, float], images: int) -> None:
        self._costs, self._images = costs, images
        self._start = time.monotonic()
        self._done = self._left = 0.0
        self._told = (0, 0, 0)

    def begin(self, runs: Sequence[Run], seen: int, size: int) -> None:
        """Note that a batch begins: ``seen`` samples are done with it."""
        self._size = size
        each = sum(self._costs[run.start] for run in runs)
        self._left = each * (self._images - seen + size)
        self._told = len(runs), seen - size, 0

    def did(self, run: Run) -> None:
        """Note that ``run`` is done for the batch."""
        work = self._costs[run.start] * self._size
        self._done += work
        self._left -= work
        runs, seen, done = self._told
        self._told = runs, seen, done + 1
        seconds = (time.monotonic() - self._start) / self._done * self._left
        _LOG.info(
            "removal %d of %d on samples %d to %d of %d, at most %s left",
            *(done + 1, runs, seen + 1, seen + self._size, self._images, told_time(seconds)),
        )


def told_time(seconds: float) -> str:
    """Return a time for a person."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _where_not_finite(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> str:
    """Return what to say of outputs that are not finite: which layer is the first to compute such a number."""
    for what, is_bad in (("NaN", torch.isnan), ("infinite numbers", torch.isinf)):
        watching = _Watching(graph_module, is_bad)
        with evaluating(graph_module):
            watching.run(*inputs)
        if watching.first is not None:
            node = watching.first
            where = "the inputs hold" if node.op == "placeholder" else f"{place(node)} is the first to compute"
            return f"the outputs of the network are not finite: {where} {what}; no removal can be measured"
    return "the outputs of the network are not finite; no removal can be measured"


class _Watching(Interpreter):
    def __init__(self, graph_module: fx.GraphModule, is_bad: Any) -> None:
        super().__init__(graph_module)
        self._is_bad = is_bad
        self.first: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Return what ``n`` computes; notes the first of which a number is bad."""
        value = super().run_node(n)
        if self.first is None and any(bool(self._is_bad(one).any()) for one in tensors_in(value)):
            self.first = n
        return value
