"""What runs that train have in common: one network after the other, trained on the same device and images."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxprune.run_record import FINETUNING, UNPRUNED
from fxprune.structures.gated_layers import layers as layers_of
from fxprune.tracing.trace import trace
from fxprune.training.data import ImageData
from fxprune.training.evaluation import evaluate
from fxprune.training.goal import Shrink
from fxprune.training.recipe import Say, Session, Trained, trained
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """What trains the networks of a run.

    Args:
        data: the images, on the device.
        out: the folder of the run.
        settings: how each is trained.
        say: what is told how it goes, a line at a time.
        teacher: what they learn from too, if anything.
        accelerator: on what they are trained.
    """

    data: ImageData
    out: Path
    settings: Settings
    say: Say
    teacher: nn.Module | None
    accelerator: Accelerator

    def accuracy(self, graph_module: fx.GraphModule) -> float:
        """Return the held-out top-1 of ``graph_module``, which is on the device then."""
        graph_module.to(self.accelerator.device)
        workers = self.settings.workers
        return evaluate(graph_module, self.data.held_out, workers=workers, accelerator=self.accelerator)

    def train(
        self, graph_module: fx.GraphModule, settings: Settings, checkpoint: str, metrics: str, shrink: Shrink = None
    ) -> Trained:
        """Train ``graph_module`` in place; the names are those of files of the run."""
        session = Session(self.out / checkpoint, self.out / metrics, self.accelerator)
        return trained(
            graph_module, self.data, settings, self.say, shrink=shrink, teacher=self.teacher, session=session
        )

    def finetune(self, removed: fx.GraphModule) -> Rows:
        """Train ``removed`` for a short while, its scales as they are; it ends on the CPU. Returns the metrics."""
        for layer in layers_of(removed):
            layer.module.trained_scale.requires_grad_(False)
        settings = self.settings
        short = replace(
            settings,
            epochs=settings.finetune_epochs,
            lr=settings.lr / 10,
            distill_features=settings.distill_features / 10,  # in proportion
        )
        rows = self.train(removed, short, "finetune.pt", FINETUNING).rows
        settled(removed)
        return rows

    def baseline(self, unpruned: fx.GraphModule) -> float:
        """Train the unpruned network as long as the other was, in the same way; return its held-out top-1."""
        self.say("training the unpruned network as long, for comparison")
        settings = replace(self.settings, epochs=self.settings.epochs + self.settings.finetune_epochs)
        self.train(unpruned, settings, "unpruned.pt", UNPRUNED)
        return self.accuracy(unpruned)


def settled(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Put a graph that was trained into eval mode on the CPU, in the order of memory that it had there."""
    return graph_module.cpu().to(memory_format=torch.contiguous_format).eval()


def teacher_of(teacher: nn.Module, examples: torch.Tensor, settings: Settings) -> nn.Module | None:
    """Return a copy of ``teacher``, if one is asked for: a graph, if its feature maps are to be learned."""
    if not settings.learns_from_teacher:
        return None
    teacher = copy.deepcopy(teacher)
    if settings.distill_features and not isinstance(teacher, fx.GraphModule):
        return trace(teacher.cpu(), examples)
    return teacher
