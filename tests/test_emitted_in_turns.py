"""The clock of benchmarks: two emitted networks in a process without fxprune."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import fxprune
from benchmarks.speed.emitted_in_turns import in_turns


def test_a_network_that_does_a_hundred_times_as_much_takes_longer(tmp_path: Path) -> None:
    images = torch.randn(1, 8, 64, 64)
    for name, width in (("small", 4), ("large", 512)):
        network = nn.Sequential(nn.Conv2d(8, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3)).eval()
        fxprune.emit(fxprune.trace(network, images), tmp_path / name)
    told = in_turns(tmp_path / "large", tmp_path / "small", images, seconds=0.1)
    assert told["ratio"] < 1
    assert told["pruned"] < told["unpruned"]
    assert told["turns"] >= 15
