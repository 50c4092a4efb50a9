"""The shell, run in this process."""

from __future__ import annotations

import pytest

from fxprune.cli import main

NET = "fxprune.training.cifar_resnet:CifarResNet"
SMALL = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
"""
"""A file with a network for the digits."""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was written to stdout and stderr."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err
