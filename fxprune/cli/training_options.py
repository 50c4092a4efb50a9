"""The options that say how ``fxprune prune`` trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from fxprune.training.settings import Precision, Settings

_OPTIONS = (
    click.option("--epochs", default=Settings.epochs, type=click.IntRange(min=1), help="Epochs of training."),
    click.option(
        "--finetune-epochs",
        default=Settings.finetune_epochs,
        type=click.IntRange(min=0),
        help="Epochs after the removal, at lr/10.",
    ),
    click.option("--baseline", is_flag=True, help="Train the unpruned network as long too, for a fair comparison."),
    click.option("--lr", default=Settings.lr, type=click.FloatRange(0, min_open=True), help="Peak learning rate."),
    click.option(
        "--batch-size",
        default=Settings.batch_size,
        type=click.IntRange(min=1),
        help="Images a step, over all processes.",
    ),
    click.option(
        "--accumulate",
        default=Settings.accumulate,
        type=click.IntRange(min=1),
        help="Parts a step is computed in, to save memory.",
    ),
    click.option("--weight-decay", default=Settings.weight_decay, type=click.FloatRange(0), help="Of the weights."),
    click.option(
        "--label-smoothing",
        default=Settings.label_smoothing,
        type=click.FloatRange(0, 1, max_open=True),
        help="Of the loss.",
    ),
    click.option(
        "--shrink-share",
        default=Settings.shrink_share,
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the training after which the target is met.",
    ),
    click.option(
        "--distill",
        default=Settings.distill,
        type=click.FloatRange(0, 1),
        help="Share of the loss that learns the unpruned outputs.",
    ),
    click.option(
        "--distill-features",
        default=Settings.distill_features,
        type=click.FloatRange(0),
        help="Weight in the loss of the distance from the unpruned feature maps, where layers change their shape.",
    ),
    click.option(
        "--temperature",
        default=Settings.temperature,
        type=click.FloatRange(0, min_open=True),
        help="Of distillation.",
    ),
    click.option(
        "--teacher-weights",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Teach with MODEL with these weights instead; several: with the mean of their outputs.",
    ),
    click.option(
        "--recalibrate",
        default=Settings.recalibrate,
        type=click.IntRange(min=0),
        help="Batches that batch norms are measured on at the end.",
    ),
    click.option(
        "--precision", default=Settings.precision, type=click.Choice(get_args(Precision)), help="Of training."
    ),
    click.option(
        "--compile/--no-compile",
        default=False,
        help="Train with torch.compile; where layers are steered, once targets are met: each change compiles anew.",
    ),
    click.option(
        "--cuda-graphs",
        is_flag=True,
        help="Record the network on one GPU and replay it, anew when layers change: faster where images are small.",
    ),
    click.option(
        "--image-size", type=click.IntRange(min=1), help="Side in pixels; 224 for a folder, 32 for CIFAR-10."
    ),
    click.option(
        "--on-bad-image",
        default="fail",
        type=click.Choice(["fail", "skip"]),
        help="What to do if one cannot be read.",
    ),
    click.option(
        "--in-memory",
        is_flag=True,
        help="Keep small images decoded on the device, and augment them there, a batch at a time.",
    ),
    click.option(
        "--seed", default=Settings.seed, help="Of the data order, the augmentation and the model's initial weights."
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        help="Processes that decode images; by default one a core, at most eight.",
    ),
    click.option(
        "--device", default=Settings.device, help="cpu, cuda, cuda:1, ...; auto takes a CUDA GPU if there is one."
    ),
    click.option(
        "--checkpoint-minutes",
        default=Settings.checkpoint_minutes,
        type=click.FloatRange(0),
        help="How often to save within an epoch.",
    ),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`fxprune.training.settings.Settings`, of images, and of teachers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
