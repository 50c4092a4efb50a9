"""The arguments that benchmarks which train have in common, and the settings that they make."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from fxprune.training.settings import Precision, Settings


def add_training_arguments(parser: argparse.ArgumentParser, *, epochs: int, lr: float) -> None:
    """Add the options for data and training, with these defaults."""
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--precision", default=Settings.precision, choices=get_args(Precision))
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--in-memory", action="store_true", help="as for fxprune prune")
    parser.add_argument("--compile", action="store_true", help="as for fxprune prune")
    parser.add_argument("--cuda-graphs", action="store_true", help="as for fxprune prune")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")


def add_arm_arguments(parser: argparse.ArgumentParser, arms: Collection[str]) -> None:
    """Add the options of a benchmark that trains arms to one target, a seed at a time."""
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs, or what arms name, to leave")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out to choose on")
    parser.add_argument("--arm", choices=arms, nargs="+", help="run only these, and what they need")
    parser.add_argument("--table", action="store_true", help="write the result of the seeds that were run")


def settings_from(arguments: argparse.Namespace, **more: Any) -> Settings:
    """Return the settings that the arguments name, and ``more``."""
    given = vars(arguments)
    return Settings(**{one.name: given[one.name] for one in fields(Settings) if one.name in given}, **more)
