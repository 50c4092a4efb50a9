"""What reports tell of times: asked of one process, told to all."""

from __future__ import annotations

from pathlib import Path

import pytest
from together import of_two_processes

TOGETHER = """
import sys
import torch
from torch import distributed, nn
sys.path.insert(0, {tests!r})
from fake_latency import FakeLatency
import fxprune
from fxprune.training.report import Clocked, timed

rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
torch.manual_seed(0)
graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 6, 6))
latency = FakeLatency(off=(1.5, 3.0)[rank])  # the second one's clock is not asked
told = timed(latency, graph, graph, Clocked(0.7, [(1.0, 1.1, 0.01)]))["latency"]
torch.save((told, len(latency.asked), latency.milliseconds(graph)), sys.argv[3])
distributed.destroy_process_group()
"""


def test_of_several_processes_the_first_times_the_networks(tmp_path: Path) -> None:
    (first, asked, predicted), (second, unasked, _) = of_two_processes(TOGETHER, tmp_path)
    assert first == second
    assert (asked, unasked) == (1, 0)
    assert first["before_ms"] == first["after_ms"] == pytest.approx(1.5 * predicted)
    assert first["target_ms"] == 0.7
    assert first["points"] == [{"predicted_ms": 1.0, "measured_ms": 1.1, "spread": 0.01}]
