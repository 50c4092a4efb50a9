"""How far a pruned network is from the unpruned one, on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from fxprune.choosing.samples import Batch
from fxprune.errors import FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now
from fxprune.pruning.sensitivity.output_change import Change, Reference, is_logits


@dataclass(frozen=True)
class Quality:
    """What a network is worth on images that nothing was fitted to.

    Attributes:
        moved: root mean square of the change of all outputs over that of the unpruned network's; infinite if they are
            not finite, and then nothing else is known.
        agreement: share of the images whose first choice is the unpruned network's; None if outputs are no logits.
        top1: share of the images whose first choice is the label; None without labels, or if outputs are no logits.
    """

    moved: float
    agreement: float | None = None
    top1: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return it as plain data; None for what is infinite."""
        return {**asdict(self), "moved": self.moved if math.isfinite(self.moved) else None}

    def __str__(self) -> str:
        parts = [] if self.top1 is None else [f"top-1 {self.top1:.2%}"]
        parts += [] if self.agreement is None else [f"first choice as before {self.agreement:.2%}"]
        return ", ".join([*parts, f"outputs moved by {self.moved:.1%}"])


def outputs_of(graph_module: fx.GraphModule, batches: Sequence[Batch]) -> list[Any]:
    """Return what a graph returns for each batch, in eval mode; raises FxpruneValueError if it does not take one."""
    with keeping_state(graph_module), evaluating(graph_module), torch.no_grad():
        try:
            return [graph_module(*as_taken_now(graph_module, batch.inputs)) for batch in batches]
        except RuntimeError as error:
            raise FxpruneValueError(f"the graph does not take a batch of data: {first_line(error)}") from error


def quality(graph_module: fx.GraphModule, batches: Sequence[Batch], wanted: Sequence[Any]) -> Quality:
    """Return how a graph does, where the unpruned one returned ``wanted``."""
    change = change_of(batches, wanted, outputs_of(graph_module, batches))
    return Quality(math.inf) if change.why else Quality(change.moved, change.agreement, change.right)


def change_of(batches: Sequence[Batch], wanted: Sequence[Any], found: Sequence[Any]) -> Change:
    """Return how far outputs are from those ``wanted``, batch by batch."""
    change = Change()
    for batch, one, other in zip(batches, wanted, found, strict=True):
        labels = batch.labels if is_logits(one) and _are_classes(batch.labels, one.shape[1]) else None
        change.add(Reference(one, labels), other, batch.size)
    return change


def _are_classes(labels: torch.Tensor | None, classes: int) -> bool:
    """Say whether labels are a number of a class each; raises FxpruneValueError if there are fewer ``classes``."""
    if labels is None or labels.dim() != 1 or labels.is_floating_point() or not len(labels):
        return False
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise FxpruneValueError(f"labels are {least} to {most}, and the network knows classes 0 to {classes - 1}")
    return True
