"""The demo: ResNet-20 learns scikit-learn's handwritten digits and loses half of its MACs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fxprune.choosing.targets import Targets
from fxprune.training.cifar_resnet import CifarResNet
from fxprune.training.data import load_data
from fxprune.training.folder import open_folder
from fxprune.training.goal import Goal
from fxprune.training.job import Run, prune_on_data
from fxprune.training.recipe import Say, Session, train
from fxprune.training.settings import Settings

TARGET_MACS = 0.48


def record_of(seed: int) -> dict[str, Any]:
    """Return what run.json tells of the demo."""
    return {"model": "ResNet-20", "data": "digits", "seed": seed, "target_macs": TARGET_MACS}


def run_demo(out: Path, seed: int, say: Say) -> dict[str, Any]:
    """Train, prune, verify and write everything to ``out``; return the report."""
    run = record_of(seed)
    data = load_data("digits")
    with open_folder(out, run):
        torch.manual_seed(seed)
        model = CifarResNet(depth=20, classes=data.classes, in_channels=data.shape[0])
        say("1/2 training ResNet-20 on handwritten digits")
        base = Settings(epochs=30, lr=0.1, batch_size=64, label_smoothing=0.05, seed=seed)
        train(model, data, base, say, session=Session(out / "baseline.pt"))
        say(f"2/2 pruning it to {TARGET_MACS:.0%} of its MACs")
        sparse = Settings(epochs=110, lr=0.05, batch_size=64, label_smoothing=0.05, shrink_share=0.4, seed=seed)
        goal = Goal(Targets(macs=TARGET_MACS))
        return prune_on_data(model.cpu(), data, out, sparse, goal=goal, run=Run(say, run))
