"""How far a pruned network is from the unpruned one, on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from fxprune.choosing.samples import Batch
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now
from fxprune.ir.pytrees import tensors_in


@dataclass(frozen=True)
class Quality:
    """What a network is worth on images that nothing was fitted to.

    Attributes:
        moved: root mean square of the change of all outputs over that of the unpruned network's.
        agreement: share of the images whose first choice is the unpruned network's; None if outputs are no logits.
        top1: share of the images whose first choice is the label; None without labels, or if outputs are no logits.
    """

    moved: float
    agreement: float | None = None
    top1: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [] if self.top1 is None else [f"top-1 {self.top1:.2%}"]
        parts += [] if self.agreement is None else [f"first choice as before {self.agreement:.2%}"]
        return ", ".join([*parts, f"outputs moved by {self.moved:.1%}"])


def outputs_of(graph_module: fx.GraphModule, batches: Sequence[Batch]) -> list[Any]:
    """Return what a graph returns for each batch, in eval mode."""
    with keeping_state(graph_module), evaluating(graph_module), torch.no_grad():
        return [graph_module(*as_taken_now(graph_module, batch.inputs)) for batch in batches]


def quality(graph_module: fx.GraphModule, batches: Sequence[Batch], wanted: Sequence[Any]) -> Quality:
    """Return how a graph does, where the unpruned one returned ``wanted``."""
    found = outputs_of(graph_module, batches)
    moved = _moved(wanted, found) ** 0.5
    if not all(map(is_logits, found)):
        return Quality(moved)
    choices = torch.cat([one.argmax(1) for one in found]).cpu()
    before = torch.cat([one.argmax(1) for one in wanted]).cpu()
    labels = [batch.labels for batch in batches if batch.labels is not None]
    top1 = None
    if len(labels) == len(batches) and labels[0].dim() == 1:
        top1 = float((choices == torch.cat(labels).cpu()).double().mean())
    return Quality(moved, float((choices == before).double().mean()), top1)


def is_logits(output: Any) -> bool:
    """Say whether an output is a row of scores of several classes a sample."""
    return (
        isinstance(output, torch.Tensor) and output.dim() == 2 and output.shape[1] > 1 and output.is_floating_point()
    )


def divergence(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Return how far outputs are from those ``wanted``: of logits E KL(p || q), of others mean squares over these."""
    if not all(map(is_logits, (*wanted, *found))):
        return _moved(wanted, found)
    total = count = 0.0
    for one, other in zip(wanted, found, strict=True):
        p, q = (functional.log_softmax(logits.double(), 1) for logits in (one, other))
        total += float((p.exp() * (p - q)).sum())
        count += len(one)
    return total / count


def _moved(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the mean square of the change over that of what was; infinite where shapes differ."""
    gap = size = 0.0
    for one, other in zip(tensors_in(list(wanted)), tensors_in(list(found)), strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.is_floating_point():
            gap += float((one.double() - other.double()).square().sum())
            size += float(one.double().square().sum())
    return gap / size if size else gap
