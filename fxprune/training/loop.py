"""The training loop of the recipe, on Hugging Face accelerate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from rich.progress import Progress
from torch import fx, nn
from torch.nn import functional

from fxprune.errors import FxpruneError, LoadError
from fxprune.gates.data_parallel import keep_all_parameters_in_training
from fxprune.passes import RemoveLayers, RemoveUnusedSubmodules
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.closed_removal import RemoveClosedChannels
from fxprune.pruning.held_partition import HeldPartition, has_blocks
from fxprune.pruning.own_loops import parameter_groups
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.steering import SteeredL1
from fxprune.rewriting.contract import Pass
from fxprune.training import engine
from fxprune.training.batches import Seeded, loader, step_batches, steps_per_epoch
from fxprune.training.cuda_graphs import CudaGraphs, separate_gradients
from fxprune.training.data import ImageData
from fxprune.training.distillation import distillation, feature_distance, stage_ends, with_feature_maps
from fxprune.training.evaluation import check_labels, evaluate, require_logits, to_device
from fxprune.training.metrics import Metrics
from fxprune.training.settings import Schedule, Settings
from fxprune.training.sliced import Slices
from fxprune.weights.slicing import noting_slices

_STEPS_A_ROW = 50

_AUXILIARY = 0.3  # the weight of an auxiliary classifier's loss, as in GoogLeNet (Szegedy et al., arXiv 1409.4842)


class Trainer:
    """Trains ``model`` in place, step by step; where it stands is ``step``, and all else follows from the settings.

    What is computed is the model without its closed layers and channels: a copy that shares the weights of what is
    whole with it, and has parts of the others (:mod:`fxprune.training.sliced`), made anew when something closes. So
    training gets cheaper as layers and channels go. Where feature maps are learned all channels are computed. What
    lies across the blocks of linear layers (:class:`fxprune.passes.MaskPartition`) is held at zero.

    Args:
        model: what to train; on the device of the metrics' accelerator, which trains it.
        metrics: what gets a row every 50 steps and every epoch.
        teacher: what to learn from too (``settings.distill``, ``distill_features``); a graph is compiled first.
        shrink: what shrinks the model's layers after each step, if any.

    Raises FxpruneError if feature maps are to be learned and the two have none in common.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        settings: Settings,
        metrics: Metrics,
        *,
        shrink: ProximalL1 | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.model, self.data, self.settings, self.shrink = model, data, settings, shrink
        self.accelerator, self.metrics = metrics.accelerator, metrics
        self.steps_per_epoch = steps_per_epoch(data.train_count, settings.batch_size)
        self.schedule = Schedule(settings.lr, self.steps_per_epoch * settings.epochs)
        groups = parameter_groups(model, settings.weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
        self.held = HeldPartition(model) if isinstance(model, fx.GraphModule) and has_blocks(model) else None
        self.step = 0
        self.loss_sum = 0.0  # of the epoch so far
        self.seconds = 0.0  # likewise
        self.top1: float | None = None
        self._computed = model
        self._network = model
        self._called: Callable[[torch.Tensor], Any] = model
        self._slices = Slices(())
        self._prepared: tuple[int, ...] | None = None  # for so many chosen and closed layers, and closed channels
        self._readers: list[str] = []  # of the feature maps to learn
        self.teacher = None if teacher is None else self._teacher(teacher)

    def _teacher(self, teacher: nn.Module) -> Callable[[torch.Tensor], Any]:
        """Return what runs as the teacher: it returns its feature maps too if they are to be learned."""
        if self.settings.distill_features:
            if not isinstance(self.model, fx.GraphModule) or not isinstance(teacher, fx.GraphModule):
                raise FxpruneError("distill_features compares graphs: trace the model and its teacher")
            self._readers = stage_ends(self.model, teacher)
            teacher = with_feature_maps(teacher, self._readers)
        if isinstance(teacher, fx.GraphModule):  # with the maps as outputs: passes keep those, not what lies between
            teacher = Pipeline(AFTER_TRAINING, verify=False)(teacher.eval()).graph_module
        device: Any = self.accelerator.device
        teacher = teacher.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        if self.settings.cuda_graphs:
            return CudaGraphs(teacher)
        return torch.compile(teacher, backend=engine.COMPILER) if self.settings.compile else teacher

    def run_epoch(self, progress: Progress, task: Any, after_step: Callable[[], None]) -> None:
        """Train to the end of the epoch that ``step`` lies in, and evaluate; ``after_step()`` runs between steps."""
        settings, accelerator = self.settings, self.accelerator
        epoch, first = divmod(self.step, self.steps_per_epoch)
        seed = settings.seed * 100_003 + epoch
        index_batches = step_batches(self.data.train_count, settings.batch_size, seed)
        processes = accelerator.num_processes
        mine = [
            batch[: len(batch) // processes * processes][accelerator.process_index :: processes]
            for batch in index_batches
        ]
        start = time.monotonic() - self.seconds
        self.prepare()
        self.model.train()
        train = Seeded(self.data.train, seed)
        for batch in loader(train, mine[first:], workers=settings.workers, device=accelerator.device):
            if batch is None:
                raise LoadError(f"none of the images of step {self.step} can be read")
            value = self._train_step(*batch)
            self.loss_sum += value
            if self.step % _STEPS_A_ROW == 0:
                self.metrics.write({"step": self.step, "loss": value, **self._state()})
            if self.step % self.steps_per_epoch:
                self.seconds = time.monotonic() - start
                after_step()
            progress.update(
                task,
                completed=self.step,
                description=f"epoch {epoch + 1}/{settings.epochs}",
                note=self._note(value),
            )
        self._share_buffers()
        self._slices.pull()
        with accelerator.autocast():
            self.top1 = evaluate(
                self._computed, self.data.held_out, workers=settings.workers, accelerator=accelerator
            )
        row = {"step": self.step, "epoch": epoch + 1, "loss": self.loss_sum / self.steps_per_epoch, "top1": self.top1}
        spent = {"seconds": round(time.monotonic() - start, 2), "device": engine.device_name(accelerator)}
        self.metrics.write({**row, **self._state(), **spent})
        self.loss_sum = self.seconds = 0.0

    def prepare(self) -> None:
        """Make anew what is computed, in a DDP or autocast module, if a gate has opened or closed since."""
        state = (0,) if self.shrink is None else self.shrink.standing()
        if state == self._prepared:
            return
        self.finish()
        self._prepared = state
        self._computed = self.model
        if isinstance(self.model, fx.GraphModule):
            with noting_slices() as noted:
                self._computed = Pipeline(self._shortening(), verify=False)(self.model).graph_module
            self._slices = Slices(noted)
        network = self._computed
        if self._readers:
            assert isinstance(network, fx.GraphModule)
            network = with_feature_maps(network, self._readers)
        keep_all_parameters_in_training(network)
        self._network = self.accelerator.prepare_model(network)
        self._network.train()
        self._called = self._network
        if self.settings.cuda_graphs:
            self._called = CudaGraphs(self._network)
        elif self.settings.compile and (not isinstance(self.shrink, SteeredL1) or self.shrink.is_settled):
            self._called = torch.compile(self._network, backend=engine.COMPILER)  # takes too long for every change

    def _shortening(self) -> list[Pass]:
        """Return the passes that take out what is closed."""
        cuts = self.shrink is not None and self.shrink.closed_channels and not self._readers
        channels: list[Pass] = [RemoveClosedChannels()] if cuts else []
        return [RemoveLayers(threshold=0.0), *channels, RemoveUnusedSubmodules()]

    def finish(self) -> None:
        """Take off what accelerate put around the model, and let go of what was recorded."""
        self._called = self.model
        self.accelerator.unwrap_model(self._network, keep_fp32_wrapper=False)
        self.accelerator.free_memory()

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Take one step, with the images in ``accumulate`` parts; return the mean loss over all processes.

        Raises FxpruneError if the loss is NaN or infinite, before the weights follow it.
        """
        settings, accelerator = self.settings, self.accelerator
        rank = accelerator.process_index
        torch.manual_seed((settings.seed * 100_003 + self.step) * 1009 + rank)  # dropout, as after a resume
        lr = self.schedule.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        self._slices.pull()
        total = torch.zeros((), device=accelerator.device)
        parts = list(zip(images.chunk(settings.accumulate), labels.chunk(settings.accumulate), strict=True))
        for number, (part, part_labels) in enumerate(parts, start=1):
            is_last = number == len(parts)
            with nullcontext() if is_last else accelerator.no_sync(self._network):
                total += self._backward(part, part_labels, len(images))
        self._slices.push()
        value = float(accelerator.reduce(total, "mean"))
        if not math.isfinite(value):
            raise FxpruneError(
                f"the loss became {value} at step {self.step}; the last checkpoint, if there is one, is from before: "
                "run again with a lower learning rate, in another folder"
            )
        if settings.cuda_graphs:
            separate_gradients(self.model.parameters())
        self.optimizer.step()
        if self.held is not None:
            self.held.step()
        self.step += 1
        if self.shrink is not None:
            self.shrink.step(lr)
            self.shrink.close_zeros()  # also those that the optimizer itself brought to zero
            self.prepare()
        return value

    def _backward(self, images: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
        """Add the gradient of these images' share of the mean loss over ``count``; return that share."""
        images = to_device(images, self.accelerator.device)
        outputs, maps = self._with_maps(self._called(images))
        logits, *auxiliary = require_logits(outputs)
        check_labels(logits, labels)
        settings = self.settings
        labels = labels.to(logits.device, non_blocking=True)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        for other in auxiliary:
            others = functional.cross_entropy(other.float(), labels, label_smoothing=settings.label_smoothing)
            loss = loss + _AUXILIARY * others
        if self.teacher is not None:
            with torch.no_grad(), self.accelerator.autocast():
                known, known_maps = self._with_maps(self.teacher(images))
            if settings.distill:
                if known.shape != logits.shape:
                    shapes = f"{tuple(known.shape)}, the model {tuple(logits.shape)}"
                    raise FxpruneError(f"the teacher returns {shapes}: give one with the same classes")
                learned = distillation(logits, known, settings.temperature)
                loss = (1 - settings.distill) * loss + settings.distill * learned
            if maps:
                weight = settings.distill_features * self.schedule.at(self.step) / settings.lr
                loss = loss + weight * feature_distance(maps, known_maps)
        loss = loss * (len(images) / count)
        self.accelerator.backward(loss)
        return loss.detach()

    def _with_maps(self, outputs: Any) -> tuple[Any, list[torch.Tensor]]:
        return outputs if self._readers else (outputs, [])

    def _share_buffers(self) -> None:
        """Give every process the main one's batch-norm statistics; gradients keep all else equal."""
        from accelerate.utils import broadcast

        if self.accelerator.num_processes > 1:
            for buffer in self.model.buffers():
                buffer.copy_(broadcast(buffer.clone()))

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"lr": self.schedule.at(self.step - 1)}
        if self.shrink is not None:
            gone = self.shrink.gone
            left = {f"{kind}_left": counts[0] for kind, counts in self.shrink.sites_left.items()}
            gates = {**self.shrink.layers, **self.shrink.channels}
            scales = {path: round(one.effective_scale, 4) for path, one in gates.items()}
            moved = {path: scale for path, scale in scales.items() if self.metrics.scales.get(path) != scale}
            shares = {"macs_left": self.shrink.left, "params_left": self.shrink.params_left}
            state |= {**left, **shares, "saved_by": self.shrink.saved_by, "scales": moved}
            narrower = {path: one for path, one in self.shrink.widths.items() if self.metrics.widths.get(path) != one}
            if narrower:
                state["widths"] = narrower
            if went := [path for path in gone if path not in self.metrics.gone]:
                state["gone"] = went
        return state

    def _note(self, loss: float) -> str:
        note = f"loss {loss:.3f}" + ("" if self.top1 is None else f", top-1 {self.top1:.2%}")
        if self.shrink is not None:
            left = [f"{now} of {before} {kind}" for kind, (now, before) in self.shrink.sites_left.items()]
            note += f", {self.shrink.left:.1%} of the MACs and {' and '.join(left)} left"
        return note
