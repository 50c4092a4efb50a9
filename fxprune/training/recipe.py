"""The training recipe behind ``fxprune prune``: fine-tune while the scales are steered to zero, resumable.

The scales of as many layers as the target asks for are shrunk to exact zeros in the first part of the schedule,
while the learning rate is high; the network then trains on without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx, nn

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError, LoadError, first_line
from fxprune.pruning.closing import Closing
from fxprune.pruning.old_names import takes_old_names
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.steering import SteeredL1
from fxprune.run_results import split_text
from fxprune.tracing.check import require_finite
from fxprune.training.batches import Seeded, loader, step_batches, steps_per_epoch
from fxprune.training.checkpoint import load_checkpoint, save_checkpoint
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import make_accelerator
from fxprune.training.evaluation import recalibrate
from fxprune.training.goal import OnClock, Shrink, require_either
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics, progress_bar
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

_NOTHING = Targets()
Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """Where one training runs, and what it keeps of itself.

    Args:
        checkpoint: where to save the state after every epoch, and every ``settings.checkpoint_minutes``; an existing
            one is gone on from, in the middle of an epoch as if nothing had happened.
        metrics: file for the rows of numbers, as JSON lines.
        accelerator: what it trains on; made from the settings by default.
    """

    checkpoint: Path | None = None
    metrics: Path | None = None
    accelerator: Accelerator | None = None


_ALONE = Session()


def shrink_of(targets: Targets = _NOTHING, strength: float | None = None) -> Shrink:
    """Return as one value what was two keywords; raises FxpruneError if both say something."""
    require_either(targets, strength)
    return targets if strength is None else strength


@takes_old_names(shrink=shrink_of, session=Session)
def train(
    model: nn.Module,
    data: ImageData,
    settings: Settings,
    say: Say,
    *,
    shrink: Shrink = None,
    teacher: nn.Module | None = None,
    session: Session = _ALONE,
) -> list[dict[str, Any]]:
    """Train ``model`` in place; return its metrics: a row every 50 steps, and one with "epoch" and "top1" an epoch.

    Args:
        model: any network that returns logits; if it is to shrink, a graph with layer scales.
        shrink: the shares of its costs to leave: scales are steered to zero until they are met; what closes, in turn;
            or the strength of a proximal L1 on the scales, fixed.
        teacher: the network that ``settings.distill`` and ``distill_features`` learn from; a graph for the latter.
        session: checkpoint, metrics and device.

    Raises:
        LoadError: the checkpoint belongs to another model, other settings or another version.
        FxpruneError: the loss became NaN, the data do not fit the model, or the teacher is missing or will not do.
    """
    return trained(model, data, settings, say, shrink=shrink, teacher=teacher, session=session).rows


class Trained(NamedTuple):
    """The metrics of a training, and what shrank scales in it."""

    rows: list[dict[str, Any]]
    shrink: ProximalL1 | None


def trained(
    model: nn.Module,
    data: ImageData,
    settings: Settings,
    say: Say,
    *,
    shrink: Shrink,
    teacher: nn.Module | None,
    session: Session,
) -> Trained:
    """Train as :func:`train`; return what shrank the scales too."""
    teacher = _required_teacher(teacher, model, settings)
    accelerator = session.accelerator or make_accelerator(settings)
    model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in stubs
    data = data.to(accelerator.device)
    log = Metrics(session.metrics, accelerator)
    trainer = Trainer(model, data, settings, log, shrink=_shrinking(model, data, settings, shrink), teacher=teacher)
    checkpoints = _Checkpoints(session.checkpoint, trainer, shrink)
    if checkpoints.resume():
        say(f"resuming after {_where(trainer)} from {session.checkpoint}")
    log.resume(trainer.step)
    _require_one_step(trainer)
    if not _targets(shrink).is_empty and isinstance(trainer.shrink, SteeredL1) and not trainer.shrink.order:
        say(
            f"the first step compares all that may go, {trainer.shrink.candidates} of them, on {_probe_count(data)} "
            "images each: it takes longer than the others"
        )
    _run(trainer, checkpoints, say)
    trainer.finish()
    if settings.recalibrate:
        _recalibrate(trainer)
    return Trained(log.rows, trainer.shrink)


def _required_teacher(teacher: nn.Module | None, model: nn.Module, settings: Settings) -> nn.Module | None:
    """Return ``teacher`` if the loss needs one; raises FxpruneValueError if it is missing, or would be trained."""
    if not settings.learns_from_teacher:
        return None
    if teacher is None:
        raise FxpruneValueError("distill and distill_features need a teacher to learn from")
    if not {*model.parameters()}.isdisjoint(teacher.parameters()):
        raise FxpruneValueError(
            "the teacher shares weights with the model, and would change: give copy.deepcopy(teacher)"
        )
    return teacher


def _require_one_step(trainer: Trainer) -> None:
    """Raise LoadError unless all processes go on from the same step."""
    accelerator = trainer.accelerator
    steps = accelerator.gather(torch.tensor([trainer.step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise LoadError(f"the processes' checkpoints are at steps {steps}: --out must be one folder that all share")


def _run(trainer: Trainer, checkpoints: _Checkpoints, say: Say) -> None:
    """Train to the end, and show how it goes."""
    epochs, shrink = trainer.settings.epochs, trainer.shrink
    total = trainer.steps_per_epoch * epochs
    with progress_bar(trainer.accelerator.is_main_process) as progress:
        task = progress.add_task("training", total=total, completed=trainer.step, note="")

        def show_comparing(done: int, of: int) -> None:
            progress.update(task, description=f"comparing {done + 1}/{of}", refresh=True)

        if isinstance(shrink, SteeredL1):
            shrink.comparing = show_comparing
        while trainer.step < total:
            trainer.run_epoch(progress, task, checkpoints.save_if_due)
            checkpoints.save()
            row = trainer.metrics.rows[-1]
            done = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}, held-out top-1 {row['top1']:.2%}"
            say(done + (_left(row) if shrink else ""))


def _recalibrate(trainer: Trainer) -> None:
    """Measure the statistics of batch norms on training images that are drawn for it."""
    settings, accelerator, data = trainer.settings, trainer.accelerator, trainer.data
    seed = settings.seed * 100_003 + settings.epochs
    part = settings.batch_size // (settings.accumulate * accelerator.num_processes)
    batches = step_batches(data.train_count, part, seed)
    torch.manual_seed(seed)
    images = loader(Seeded(data.train, seed), batches, workers=settings.workers, device=accelerator.device)
    recalibrate(trainer.model, images, settings.recalibrate)


def _shrinking(model: nn.Module, data: ImageData, settings: Settings, shrink: Shrink) -> ProximalL1 | None:
    targets = _targets(shrink)
    if shrink is None or (isinstance(shrink, Targets) and targets.is_empty):
        return None
    assert isinstance(model, fx.GraphModule)
    if isinstance(shrink, (int, float)):
        return ProximalL1(model, shrink)
    steps = steps_per_epoch(data.train_count, settings.batch_size) * settings.epochs
    return SteeredL1(
        model,
        targets=targets,
        latency=shrink.latency if isinstance(shrink, OnClock) else None,
        closing=shrink if isinstance(shrink, Closing) else None,
        meet_after=max(1, round(steps * settings.shrink_share)),
        probe_inputs=(sample_inputs(data, _probe_count(data)),),
    )


def _targets(shrink: Shrink) -> Targets:
    """Return what is asked for; nothing where something else says what closes."""
    if isinstance(shrink, OnClock):
        return shrink.targets
    return shrink if isinstance(shrink, Targets) else _NOTHING


def _probe_count(data: ImageData) -> int:
    """Return on how many images layers are compared: 128, or an eighth of a small data set, 32 at least."""
    return min(data.train_count, max(32, min(128, data.train_count // 8)))


class _Checkpoints:
    """The state of one training: saved after every epoch and every few minutes, and gone on from.

    Args:
        path: the file; None keeps none.
        trainer: what is saved, and gone on with.
        shrink: how scales shrink; what goes on must shrink them alike.
    """

    def __init__(self, path: Path | None, trainer: Trainer, shrink: Shrink) -> None:
        self._path, self._trainer = path, trainer
        targets = _targets(shrink)
        strength = shrink if isinstance(shrink, (int, float)) else None
        plan = shrink.digest if isinstance(shrink, Closing) else None
        goal = {**targets.options(), "strength": strength, "plan": plan}
        self._run = {"settings": trainer.settings.shared(), **goal}
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save the state; raises FxpruneError before that if a weight is NaN or Inf."""
        self._saved = time.monotonic()
        require_finite(self._trainer.model)
        if self._path is not None and self._trainer.accelerator.is_main_process:
            save_checkpoint(self._path, {**self._run, **_state(self._trainer)})

    def save_if_due(self) -> None:
        """Save the state if the last time is long ago."""
        if time.monotonic() - self._saved > self._trainer.settings.checkpoint_minutes * 60:
            self.save()

    def resume(self) -> bool:
        """Go on from the file, if it is there; raises LoadError if it is another training's."""
        if self._path is None or not self._path.exists():
            return False
        state = load_checkpoint(self._path)
        state["settings"] = {**Settings().shared(), **state.get("settings", {})}  # it may be older than some of them
        for key, value in self._run.items():
            if state.get(key) != value:
                raise LoadError(
                    f"checkpoint {self._path} is of a run with {key} {state.get(key)}, not {value}; "
                    "use the same options, or another --out"
                )
        try:
            _load_state(self._trainer, state)
        except (RuntimeError, ValueError, KeyError, LoadError) as error:
            raise LoadError(f"checkpoint {self._path} is of another model: {first_line(error)}") from error
        return True


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


def _load_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    trainer.model.load_state_dict(state["model"])
    if trainer.shrink is not None:
        trainer.shrink.load_state_dict(state["shrink"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.step, trainer.loss_sum, trainer.top1 = state["step"], state["loss_sum"], state["top1"]
    trainer.seconds = state.get("seconds", 0.0)  # older ones lack it


def _left(row: Mapping[str, Any]) -> str:
    macs, params = f"{row['macs_left']:.1%} of the MACs", f"{row['params_left']:.1%} of the parameters"
    counts = "".join(f" {row[f'{kind}_left']} {kind}," for kind in ("layers", "channels") if f"{kind}_left" in row)
    split = split_text(row.get("saved_by", {}))
    return f",{counts} {macs} and {params} left" + (f" (MACs saved by {split})" if split else "")


def _where(trainer: Trainer) -> str:
    epochs, steps = divmod(trainer.step, trainer.steps_per_epoch)
    return f"epoch {epochs}" + (f" and {steps} steps" if steps else "")
