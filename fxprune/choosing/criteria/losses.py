"""What criteria with gradients take as the loss of one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from fxprune.choosing.samples import Samples
from fxprune.errors import FxpruneError, FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth, contributions

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def cross_entropy(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of logits, (N, classes, ...), and labels, (N, ...); raises FxpruneValueError."""
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 2 or labels.is_floating_point():
        raise FxpruneValueError(
            "the loss of labels is the cross entropy of logits of shape (N, classes): give the criterion a loss= of "
            "your own, which takes outputs and labels"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise FxpruneValueError(f"data has labels beyond the {outputs.shape[1]} classes of the network's outputs")
    return functional.cross_entropy(outputs, labels.long())


def _lost(loss: Loss, labels: torch.Tensor, outputs: Any) -> torch.Tensor:
    return loss(outputs, labels)


def contributions_of_samples(channels: Channels, samples: Samples, loss: Loss, name: str) -> Iterator[Worth]:
    """Yield, of each sample alone, the sums of a * d loss / d a by class (see :func:`contributions`), in eval mode.

    One sample is run at a time: wherever a graph has its batch, those of others never mix in.
    Raises FxpruneValueError if the graph does not take one sample.
    """
    graph_module = channels.graph_module
    with ExitStack() as held:
        held.enter_context(keeping_state(graph_module))
        held.enter_context(evaluating(graph_module))
        for batch in samples.alone():
            inputs = as_taken_now(graph_module, batch.inputs)
            device = next((one.device for one in graph_module.parameters()), torch.device("cpu"))
            if batch.labels is None:
                raise FxpruneValueError(f"criterion {name} needs labels, and a batch of data has none")
            labels = batch.labels.to(device)
            try:
                found = contributions(channels, inputs, partial(_lost, loss, labels))
            except FxpruneError:
                raise
            except (RuntimeError, ValueError) as error:
                why = f"the graph or the loss does not take one: {first_line(error)}"
                raise FxpruneValueError(f"criterion {name} runs samples alone, and {why}") from error
            yield found
