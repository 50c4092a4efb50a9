"""The training recipe behind ``fxprune prune``: fine-tune while the scales are steered to zero, resumable.

The scales of as many layers as the target asks for are shrunk to exact zeros in the first part of the schedule,
while the learning rate is high; the network then trains on without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import LoadError, first_line
from fxprune.sparsity import SteeredL1, parameter_groups
from fxprune.training.checkpoint import load_checkpoint, save_checkpoint
from fxprune.training.data import ImageData, batches, sample_inputs
from fxprune.training.loop import Schedule, evaluate, progress_bar, train_epoch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        lr: peak learning rate of SGD with Nesterov momentum 0.9.
        batch_size: images a step.
        weight_decay: of weights; scales, norms and biases have none.
        label_smoothing: of the cross-entropy.
        shrink_share: the share of all steps after which the target is met.
        seed: of the data order, the augmentation and dropout.
        workers: processes that decode images.
        device: where to train.
    """

    epochs: int = 10
    lr: float = 0.05
    batch_size: int = 128
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    shrink_share: float = 0.25
    seed: int = 0
    workers: int = 0
    device: str = "cpu"


def train(
    model: nn.Module,
    data: ImageData,
    settings: Settings,
    say: Say,
    *,
    target_macs: float | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train ``model`` in place; with a target, its ResConvs are shrunk until the target is met.

    With a checkpoint path the state is saved there after every epoch, and an existing checkpoint is gone on from.

    Raises:
        LoadError: the checkpoint belongs to another model or other settings.
        FxpruneError: the loss became NaN, or the data do not fit the model.
    """
    device = torch.device(settings.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    steps = max(1, _steps_per_epoch(data, settings))
    schedule = Schedule(settings.lr, steps * settings.epochs)
    optimizer = torch.optim.SGD(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, momentum=0.9, nesterov=True
    )
    shrink = None
    if target_macs is not None:
        assert isinstance(model, fx.GraphModule)
        probe = sample_inputs(data, 256)
        shrink = SteeredL1(
            model,
            target_macs=target_macs,
            steps=round(schedule.total_steps * settings.shrink_share),
            probe_inputs=(probe,),
        )
    run = {"settings": _portable(settings), "target_macs": target_macs}
    first = _resume(checkpoint, run, model, optimizer, shrink, say)
    with progress_bar() as progress:
        for epoch in range(first, settings.epochs):
            torch.manual_seed(settings.seed * 100_003 + epoch)
            loader = batches(
                data.train,
                settings.batch_size,
                workers=settings.workers,
                shuffle_seed=settings.seed * 100_003 + epoch,
            )
            loss = train_epoch(
                model,
                loader,
                optimizer,
                schedule,
                epoch * steps,
                (lambda lr: None) if shrink is None else shrink.step,
                device=device,
                label_smoothing=settings.label_smoothing,
                progress=progress,
                description=f"epoch {epoch + 1}/{settings.epochs}",
            )
            accuracy = evaluate(model, data.held_out, workers=settings.workers, device=device)
            layers = "" if shrink is None else f", {len(shrink.zeros)} of {len(shrink.layers)} scales at zero"
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {loss:.3f}, held-out top-1 {accuracy:.2%}{layers}")
            if checkpoint is not None:
                state = {
                    **run,
                    "epoch": epoch + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "shrink": None if shrink is None else shrink.state_dict(),
                }
                save_checkpoint(checkpoint, state)


def _steps_per_epoch(data: ImageData, settings: Settings) -> int:
    return len(batches(data.train, settings.batch_size, shuffle_seed=0))


def _portable(settings: Settings) -> dict[str, Any]:
    """Return the settings that a resumed run must share; where it runs may change."""
    return {name: value for name, value in asdict(settings).items() if name not in ("workers", "device")}


def _resume(
    path: Path | None,
    run: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    shrink: SteeredL1 | None,
    say: Say,
) -> int:
    """Load the checkpoint, if there is one, and return the epoch to go on with."""
    if path is None or not path.exists():
        return 0
    state = load_checkpoint(path)
    for key, value in run.items():
        if state.get(key) != value:
            raise LoadError(
                f"checkpoint {path} is of a run with {key} {state.get(key)}, not {value}; "
                "use the same options, or another --out"
            )
    try:
        model.load_state_dict(state["model"])
        if shrink is not None:
            shrink.load_state_dict(state["shrink"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise LoadError(f"checkpoint {path} is of another model: {first_line(error)}") from error
    say(f"resuming after epoch {state['epoch']} from {path}")
    return int(state["epoch"])
