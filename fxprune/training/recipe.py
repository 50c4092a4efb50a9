"""The training recipe behind ``fxprune prune``: fine-tune while the scales are steered to zero, resumable.

The scales of as many layers as the target asks for are shrunk to exact zeros in the first part of the schedule,
while the learning rate is high; the network then trains on without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, FxpruneValueError, LoadError, first_line
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.steering import SteeredL1
from fxprune.tracing.check import require_finite
from fxprune.training.batches import Seeded, loader, step_batches, steps_per_epoch
from fxprune.training.checkpoint import load_checkpoint, save_checkpoint
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import make_accelerator
from fxprune.training.evaluation import recalibrate
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics, progress_bar
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

Say = Callable[[str], None]
_NOTHING = Targets()


def train(
    model: nn.Module,
    data: ImageData,
    settings: Settings,
    say: Say,
    *,
    targets: Targets = _NOTHING,
    strength: float | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    metrics: Path | None = None,
    accelerator: Accelerator | None = None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place; return its metrics: a row every 50 steps, and one with "epoch" and "top1" an epoch.

    Args:
        model: any network that returns logits; with a target or a strength, a graph with layer scales.
        targets: the shares of its costs to leave: scales are steered to zero until they are met.
        strength: of a proximal L1 on the scales, fixed, instead of targets.
        teacher: the network that ``settings.distill`` and ``distill_features`` learn from; a graph for the latter.
        checkpoint: where to save the state after every epoch, and every ``settings.checkpoint_minutes``; an existing
            one is gone on from, in the middle of an epoch as if nothing had happened.
        metrics: file for the rows, as JSON lines.

    Raises:
        LoadError: the checkpoint belongs to another model, other settings or another version.
        FxpruneError: the loss became NaN, the data do not fit the model, or the teacher is missing or will not do.
    """
    check_targets(targets, strength)
    if not settings.learns_from_teacher:
        teacher = None
    elif teacher is None:
        raise FxpruneValueError("distill and distill_features need a teacher to learn from")
    elif not {*model.parameters()}.isdisjoint(teacher.parameters()):
        raise FxpruneValueError(
            "the teacher shares weights with the model, and would change: give copy.deepcopy(teacher)"
        )
    accelerator = accelerator or make_accelerator(settings)
    device = accelerator.device
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    data = data.to(device)
    log = Metrics(metrics, accelerator)
    shrink = _shrinking(model, data, settings, targets, strength)
    trainer = Trainer(model, data, settings, accelerator, log, shrink=shrink, teacher=teacher)
    run = {"settings": settings.shared(), **targets.options(), "strength": strength}
    if checkpoint is not None and checkpoint.exists():
        _resume(checkpoint, run, trainer)
        say(f"resuming after {_where(trainer)} from {checkpoint}")
    log.resume(trainer.step)
    steps = accelerator.gather(torch.tensor([trainer.step], device=device)).tolist()
    if len(set(steps)) > 1:
        raise LoadError(f"the processes' checkpoints are at steps {steps}: --out must be one folder that all share")
    if isinstance(shrink, SteeredL1) and not shrink.order:
        say(
            f"the first step compares the {len(shrink.layers)} layers that may go, on {_probe_count(data)} images "
            "each: it takes longer than the others"
        )
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        saved = time.monotonic()
        require_finite(model)
        if checkpoint is not None and accelerator.is_main_process:
            save_checkpoint(checkpoint, {**run, **_state(trainer)})

    def save_if_due() -> None:
        if time.monotonic() - saved > settings.checkpoint_minutes * 60:
            save()

    with progress_bar(accelerator.is_main_process) as progress:
        total = trainer.steps_per_epoch * settings.epochs
        task = progress.add_task("training", total=total, completed=trainer.step, note="")

        def show_comparing(done: int, of: int) -> None:
            progress.update(task, description=f"comparing layer {done + 1}/{of}", refresh=True)

        if isinstance(shrink, SteeredL1):
            shrink.comparing = show_comparing
        while trainer.step < total:
            trainer.run_epoch(progress, task, save_if_due)
            save()
            row = log.rows[-1]
            done = f"epoch {row['epoch']}/{settings.epochs}: loss {row['loss']:.3f}, held-out top-1 {row['top1']:.2%}"
            say(done + (_left(row) if shrink else ""))
    trainer.finish()
    if settings.recalibrate:
        seed = settings.seed * 100_003 + settings.epochs
        part = settings.batch_size // (settings.accumulate * accelerator.num_processes)
        batches = step_batches(data.train_count, part, seed)
        torch.manual_seed(seed)
        part_loader = loader(Seeded(data.train, seed), batches, workers=settings.workers, device=device)
        recalibrate(model, part_loader, settings.recalibrate)
    return log.rows


def check_targets(targets: Targets, strength: float | None) -> None:
    """Raise FxpruneError if targets of layers that are steered to zero are given beside a fixed strength."""
    if strength is not None and not targets.is_empty:
        raise FxpruneError(f"{targets}: that is for layers that are steered to zero; leave strength out")


def _shrinking(
    model: nn.Module,
    data: ImageData,
    settings: Settings,
    targets: Targets,
    strength: float | None,
) -> ProximalL1 | None:
    if strength is None and targets.is_empty:
        return None
    assert isinstance(model, fx.GraphModule)
    if strength is not None:
        return ProximalL1(model, strength)
    steps = steps_per_epoch(data.train_count, settings.batch_size) * settings.epochs
    return SteeredL1(
        model,
        targets=targets,
        meet_after=max(1, round(steps * settings.shrink_share)),
        probe_inputs=(sample_inputs(data, _probe_count(data)),),
    )


def _probe_count(data: ImageData) -> int:
    """Return on how many images layers are compared: 128, or an eighth of a small data set, 32 at least."""
    return min(data.train_count, max(32, min(128, data.train_count // 8)))


def _state(trainer: Trainer) -> dict[str, Any]:
    return {
        "step": trainer.step,
        "loss_sum": trainer.loss_sum,
        "seconds": trainer.seconds,
        "top1": trainer.top1,
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "shrink": None if trainer.shrink is None else trainer.shrink.state_dict(),
    }


def _resume(path: Path, run: dict[str, Any], trainer: Trainer) -> None:
    state = load_checkpoint(path)
    state["settings"] = {**Settings().shared(), **state.get("settings", {})}  # it may be older than some of them
    for key, value in run.items():
        if state.get(key) != value:
            raise LoadError(
                f"checkpoint {path} is of a run with {key} {state.get(key)}, not {value}; "
                "use the same options, or another --out"
            )
    try:
        trainer.model.load_state_dict(state["model"])
        if trainer.shrink is not None:
            trainer.shrink.load_state_dict(state["shrink"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.step, trainer.loss_sum, trainer.top1 = state["step"], state["loss_sum"], state["top1"]
        trainer.seconds = state.get("seconds", 0.0)  # older ones lack it
    except (RuntimeError, ValueError, KeyError) as error:
        raise LoadError(f"checkpoint {path} is of another model: {first_line(error)}") from error


def _left(row: Mapping[str, Any]) -> str:
    macs, params = f"{row['macs_left']:.1%} of the MACs", f"{row['params_left']:.1%} of the parameters"
    return f", {row['layers_left']} layers, {macs} and {params} left"


def _where(trainer: Trainer) -> str:
    epochs, steps = divmod(trainer.step, trainer.steps_per_epoch)
    return f"epoch {epochs}" + (f" and {steps} steps" if steps else "")
