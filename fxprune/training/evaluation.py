"""Top-1 accuracy, and batch-norm statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fxprune.errors import FxpruneError, first_line
from fxprune.ir.copies import copy_module
from fxprune.ir.pytrees import tensors_in
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.training.batches import loader

if TYPE_CHECKING:
    from accelerate import Accelerator


def evaluate(
    model: nn.Module,
    data: Dataset[Any],
    *,
    batch_size: int = 256,
    workers: int = 0,
    accelerator: Accelerator | None = None,
) -> float:
    """Return the top-1 accuracy of ``model`` on ``data``, between 0 and 1; its train or eval mode is kept.

    The model stays on its device. With an accelerator, each of its processes takes a share of the images.
    """
    rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    mine = range(rank, len(data), processes)  # type: ignore[arg-type]  # every map-style data set has a length
    index_batches = [list(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size)]
    device = _device_of(model)
    counts = torch.zeros(2, dtype=torch.long, device=device)
    with _modes_kept(model), torch.no_grad():
        model.eval()
        for batch in loader(data, index_batches, workers=workers, device=device):
            if batch is None:
                continue
            images, labels = batch
            logits = model(to_device(images, device))
            _require_one(logits)
            check_labels(logits, labels)
            counts += torch.stack([(logits.argmax(1).cpu() == labels).sum(), torch.tensor(len(labels))]).to(device)
    if accelerator is not None:
        counts = accelerator.reduce(counts, "sum")
    correct, count = counts.tolist()
    return float(correct / max(1, count))


def recalibrate(model: nn.Module, batches: DataLoader[Any], count: int) -> None:
    """Measure the statistics of the model's batch norms anew, as plain means over ``count`` batches.

    While scales moved, the running means lagged behind. Norms that keep no statistics, and frozen ones (in eval mode
    while the model trains), stay as they are.
    """
    device = _device_of(model)
    with _modes_kept(model), torch.no_grad():
        model.train()
        norms = [module for module in model.modules() if isinstance(module, NORM_CLASSES)]
        norms = [norm for norm in norms if norm.training and norm.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain mean
        for batch in islice(batches, count):
            if batch is not None:
                model(to_device(batch[0], device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; the CPU if it has none."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a batch of images (N, C, H, W) on ``device`` in channels-last order, in which convs are fastest."""
    return images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)


def check_outputs(model: nn.Module, images: torch.Tensor) -> None:
    """Raise FxpruneError if ``model`` does not take ``images`` (N, C, H, W), or does not return logits for them.

    In train mode it may return those of auxiliary classifiers too.
    """
    own = copy_module(model)
    images = images.to(_device_of(own))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for training in (False, True):
            try:
                outputs = own.train(training)(images)
            except Exception as error:
                size, mode = "x".join(map(str, images.shape[1:])), " in train mode" if training else ""
                why = f"{first_line(error)}; --image-size sets their side"
                raise FxpruneError(f"{type(model).__name__} does not take images of {size}{mode}: {why}") from error
            require_logits(outputs) if training else _require_one(outputs)


def require_logits(outputs: Any) -> list[torch.Tensor]:
    """Return the logits that a model returned in train mode, and those of its auxiliary classifiers behind them.

    Raises FxpruneError if any are not of shape (N, classes), or there are none.
    """
    found = tensors_in(outputs)
    if not found:
        _require_one(outputs)
    for one in found:
        _require_one(one)
    return found


def _require_one(outputs: Any) -> None:
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
        raise FxpruneError("the model does not return logits of shape (N, classes); train it in a loop of your own")


def check_labels(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise FxpruneError if a label is none of the classes of ``logits``, (N, classes)."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise FxpruneError(
            f"the data has label {low if low < 0 else high}, but the model has {logits.shape[1]} outputs"
        )
