"""The ways to half of the MACs that channels.py compares: how each cuts the fine-tuned network, and trains on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils.data import Dataset

import fxprune
from benchmarks.accuracy import torch_pruning_cuts
from benchmarks.accuracy.arms import read
from benchmarks.accuracy.paired import correct, packed
from fxprune.costs.macs import total_macs, total_params
from fxprune.passes import RemoveChannels
from fxprune.structures.channels.groups import Channels
from fxprune.training.batches import Seeded, loader, step_batches
from fxprune.training.data import ImageData, sample_batches, sample_inputs
from fxprune.training.evaluation import evaluate, recalibrate
from fxprune.training.metrics import epochs
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Settings

CRITERIA = (
    *("l1", "l2", "bn-gamma", "fpgm", "taylor", "fisher"),
    *("apoz", "entropy", "read-share", "damage", "random"),
)
RANKED_TOGETHER = ("l1", "taylor", "read-share")
SAMPLES = 512
"""How many training images criteria look at."""
RECALIBRATION = 32
"""Batches on which norms are measured anew."""

Epochs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Work:
    """What all arms of a seed start from.

    Args:
        network: the fine-tuned baseline; each arm gets a copy.
        data: training images, and for choosing those of them that are held out.
        test: the test images, seen at the end alone.
        target: the share of the MACs to leave.
        only: patterns over the layers whose output channels may go; all if empty.
    """

    network: nn.Module
    data: ImageData
    test: Dataset[Any]
    settings: Settings
    target: float
    only: list[str]

    @property
    def examples(self) -> torch.Tensor:
        """A few training images, (N, C, H, W)."""
        return sample_inputs(self.data)

    def traced(self) -> fx.GraphModule:
        """Return the graph of a copy of the baseline, in eval mode."""
        return fxprune.trace(copy.deepcopy(self.network).eval(), self.examples)

    def train(self, model: nn.Module, folder: Path, name: str, settings: Settings, **more: Any) -> Epochs:
        """Train ``model`` in place, on from a checkpoint if there is one; it ends in eval mode."""
        session = Session(folder / f"{name}.pt", folder / f"{name}.jsonl")
        rows = train(model, self.data, settings, print, session=session, **more)
        model.cpu().to(memory_format=torch.contiguous_format).eval()
        return epochs(rows)

    def choosing(self, model: nn.Module) -> float:
        """Return the top-1 of ``model`` on the training images that are held out."""
        return evaluate(model, self.data.held_out, workers=self.settings.workers)

    def right(self, model: nn.Module) -> Any:
        """Return for each test image, (N,), whether ``model`` has its class."""
        return correct(model, self.test, workers=self.settings.workers)

    def recalibrated(self, model: nn.Module) -> float:
        """Return the top-1 on these of a copy whose norms are measured anew on training images."""
        own = copy.deepcopy(model)
        batches = step_batches(self.data.train_count, self.settings.batch_size, self.settings.seed)
        images = loader(Seeded(self.data.train, self.settings.seed), batches, workers=self.settings.workers)
        recalibrate(own, images, RECALIBRATION)
        return self.choosing(own)

    def finished(self, model: nn.Module, path: Epochs, cut_seconds: float = 0.0) -> dict[str, Any]:
        """Return what every arm tells of the network that it ends with."""
        right = self.right(model)
        traced = model if isinstance(model, fx.GraphModule) else fxprune.trace(copy.deepcopy(model), self.examples)
        return {
            "macs": total_macs(traced),
            "params": total_params(traced),
            "widths": {p: m.out_channels for p, m in model.named_modules() if isinstance(m, nn.Conv2d)},
            "top1_choosing": self.choosing(model),
            "top1": float(right.mean()),
            "correct": packed(right),
            "path": list(path),
            "seconds": round(cut_seconds + sum(epoch["seconds"] for epoch in path), 1),
        }


def trained_on(work: Work, folder: Path) -> dict[str, Any]:
    """The control: the baseline, trained on as long as the others."""
    network = copy.deepcopy(work.network)
    return work.finished(network, work.train(network, folder, "training", work.settings))


def trained_to_zero(work: Work, folder: Path, *, shrink_share: float = 0.25) -> dict[str, Any]:
    """Close channels one chunk after the other in the first part of the epochs; take them out at the end."""
    graph = fxprune.insert_scales(work.traced(), what="channels", only=work.only).graph_module
    settings = replace(work.settings, shrink_share=shrink_share)
    path = work.train(graph, folder, "training", settings, shrink=fxprune.Targets(macs=work.target))
    before, before_test = work.choosing(graph), float(work.right(graph).mean())
    passes = [RemoveChannels(), *fxprune.AFTER_TRAINING_KEEPING_NORMS]
    removed = fxprune.Pipeline(passes)(graph)
    found = work.finished(removed.graph_module, path)
    found |= {"top1_choosing_before_removal": before, "top1_before_removal": before_test}
    return found | {"max_relative_difference": removed.max_relative}


def one_shot(work: Work, folder: Path, *, criterion: str, scope: Any) -> dict[str, Any]:
    """Cut the channels that a criterion puts last, then train on."""

    def cut() -> nn.Module:
        remove = RemoveChannels(
            target_macs=work.target,
            scope=scope,
            criterion=criterion,
            data=sample_batches(work.data, SAMPLES),
            seed=work.settings.seed if criterion == "random" else 0,  # no other criterion takes one
            only=work.only,
        )
        return remove(work.traced()).graph_module

    return _cut_and_trained(work, folder, cut, work.settings)


def at_its_widths(work: Work, folder: Path) -> dict[str, Any]:
    """Cut to the widths that channels trained to zero left, in each group by L1, then train on."""
    report = read(folder.parent / "trained to zero")
    graph = work.traced()
    groups = [group for group in Channels(graph).groups if group.name in report["widths"]]
    ratio = {one.name: 1 - report["widths"][one.name] / graph.get_submodule(one.name).out_channels for one in groups}

    def cut() -> nn.Module:
        return RemoveChannels(ratio={name: one for name, one in ratio.items() if one > 0})(graph).graph_module

    return _cut_and_trained(work, folder, cut, work.settings)


def torch_pruning_l1(work: Work, folder: Path) -> dict[str, Any]:
    """Cut by Torch-Pruning's group L1, then train on."""
    network = copy.deepcopy(work.network).eval()
    cut = partial(torch_pruning_cuts.cut_by_l1, network, work.examples, work.target, work.only)
    return _cut_and_trained(work, folder, cut, work.settings)


def torch_pruning_lasso(work: Work, folder: Path, *, reg: float) -> dict[str, Any]:
    """Train with Torch-Pruning's group lasso for the first half of the epochs, cut, train on for the others.

    Each half has a schedule of its own, as in its recipe.
    """
    network = copy.deepcopy(work.network)
    sparse = max(1, work.settings.epochs // 2)
    examples = work.examples
    with torch_pruning_cuts.group_lasso(network, examples, work.only, reg):
        path = work.train(network, folder, "sparse", replace(work.settings, epochs=sparse))
    before = work.choosing(network)
    cut = partial(torch_pruning_cuts.cut_by_group_norm, network, examples, work.target, work.only)
    settings = replace(work.settings, epochs=max(1, work.settings.epochs - sparse))
    found = _cut_and_trained(work, folder, cut, settings, before=path)
    return found | {"top1_choosing_before_removal": before}


def _cut_and_trained(
    work: Work, folder: Path, cut: Callable[[], nn.Module], settings: Settings, before: Epochs = ()
) -> dict[str, Any]:
    """Train on what ``cut()`` returns, the same each time; return what became of it, and of the cut alone."""
    start = time.monotonic()
    network = cut()
    seconds = time.monotonic() - start
    alone = {"top1_choosing_cut": work.choosing(network), "top1_choosing_recalibrated": work.recalibrated(network)}
    path = work.train(network, folder, "training", settings)
    alone["top1_choosing_first_epoch"] = path[0]["top1"]
    later = [{**epoch, "epoch": epoch["epoch"] + len(before)} for epoch in path]
    return {**work.finished(network, [*before, *later], seconds), **alone, "seconds_cut": round(seconds, 1)}


ARMS: dict[str, Callable[[Work, Path], dict[str, Any]]] = {
    "baseline trained on": trained_on,
    "trained to zero": trained_to_zero,
    "trained to zero, over half": partial(trained_to_zero, shrink_share=0.5),
    "trained to zero, over a tenth": partial(trained_to_zero, shrink_share=0.1),
    "l1, at the widths of trained to zero": at_its_widths,
    **{f"{name}, uniform": partial(one_shot, criterion=name, scope="uniform") for name in CRITERIA},
    **{f"{name}, global": partial(one_shot, criterion=name, scope="global") for name in RANKED_TOGETHER},
    "Torch-Pruning, L1": torch_pruning_l1,
    "Torch-Pruning, group lasso 1e-4": partial(torch_pruning_lasso, reg=1e-4),
    "Torch-Pruning, group lasso 5e-4": partial(torch_pruning_lasso, reg=5e-4),
}
FAMILIES = ("trained to zero", "Torch-Pruning")
"""Of the arms whose names begin so the one that is best on the images held out of training speaks for all."""
