"""The training loop of the recipe: one epoch, one evaluation, and what they report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from fxprune.errors import FxpruneError
from fxprune.training.data import batches


@dataclass(frozen=True)
class Schedule:
    """A cosine learning rate after a linear warm-up over the first twentieth of all steps."""

    peak: float
    total_steps: int

    def at(self, step: int) -> float:
        """Return the learning rate of step ``step``, counted from 0."""
        warm_up = max(1, self.total_steps // 20)
        if step < warm_up:
            return self.peak * (step + 1) / warm_up
        return self.peak * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))


def progress_bar() -> Progress:
    """Return the progress bar that training and evaluation show."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        transient=True,
    )


def train_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    first_step: int,
    after_step: Callable[[float], None],
    *,
    device: torch.device,
    label_smoothing: float,
    progress: Progress,
    description: str,
) -> float:
    """Train ``model`` for one epoch and return the mean loss; ``after_step(lr)`` runs after every step.

    Raises FxpruneError if the loss becomes NaN or infinite, naming the step, before the weights follow it,
    or if a label is outside the model's range.
    """
    model.train()
    total = 0.0
    task = progress.add_task(description, total=len(loader), note="")
    for index, (images, labels) in enumerate(loader):
        lr = schedule.at(first_step + index)
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = _to_device(images, device)
        logits = model(images)
        _check_labels(logits, labels)
        loss = functional.cross_entropy(logits, labels.to(device), label_smoothing=label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FxpruneError(
                f"the loss became {value} at step {first_step + index}; the last checkpoint is kept: "
                "lower the learning rate and run again"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        after_step(lr)
        total += value
        progress.update(task, advance=1, note=f"loss {value:.3f}")
    progress.remove_task(task)
    return total / max(1, len(loader))


def evaluate(
    model: nn.Module,
    data: Dataset[Any],
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | None = None,
) -> float:
    """Return the top-1 accuracy of ``model`` on ``data``, between 0 and 1; its train or eval mode is kept."""
    device = device or torch.device("cpu")
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    correct = count = 0
    try:
        with torch.no_grad():
            for images, labels in batches(data, batch_size, workers=workers):
                logits = model(_to_device(images, device))
                _check_labels(logits, labels)
                correct += int((logits.argmax(1).cpu() == labels).sum())
                count += len(labels)
    finally:
        for module, flag in flags:
            module.training = flag
    return correct / max(1, count)


def _to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return images.to(device).contiguous(memory_format=torch.channels_last)


def _check_labels(logits: Any, labels: torch.Tensor) -> None:
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise FxpruneError("the model does not return logits of shape (N, classes); train it in a loop of your own")
    if int(labels.max()) >= logits.shape[1]:
        raise FxpruneError(f"the data has label {int(labels.max())}, but the model has {logits.shape[1]} outputs")
