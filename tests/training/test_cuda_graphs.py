"""Training steps recorded as CUDA graphs are the steps that are taken without."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import fx, nn

import fxprune
from fxprune.errors import FxpruneError
from fxprune.prune import insert_scales
from fxprune.training.cuda_graphs import CudaGraphs
from fxprune.training.data import ImageData, load_data, sample_inputs
from fxprune.training.engine import make_accelerator
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

SETTINGS = Settings(epochs=2, lr=0.01, batch_size=64, shrink_share=0.5, cuda_graphs=True)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are recorded on a GPU")


@pytest.fixture(autouse=True)
def fresh_engine() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits", 16)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


def graph(data: ImageData) -> fx.GraphModule:
    torch.manual_seed(0)
    stages = nn.Sequential(Block(8), Block(8), nn.Conv2d(8, 16, 3, stride=2, padding=1), Block(16), Block(16))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 10))
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), stages, head)
    return fxprune.trace(network, sample_inputs(data, 8))


def quiet(message: str) -> None:
    assert message


@pytest.mark.parametrize("other", [{"compile": True}, {"accumulate": 2}])
def test_what_it_does_not_go_with(other: dict[str, Any]) -> None:
    with pytest.raises(FxpruneError, match="cuda_graphs goes neither with compile nor with accumulate"):
        replace(SETTINGS, **other)


def test_on_a_cpu_there_are_none() -> None:
    with pytest.raises(FxpruneError, match="for one process on a GPU, not for device cpu"):
        make_accelerator(replace(SETTINGS, device="cpu"))


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_steps_are_the_same(data: ImageData, precision: Literal["float32", "bf16"]) -> None:
    trained = {}
    for recorded in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        traced = graph(data)
        model = insert_scales(copy.deepcopy(traced), "all").graph_module
        settings = replace(SETTINGS, precision=precision, distill=0.5, distill_features=1.0, cuda_graphs=recorded)
        rows = train(model, data, settings, quiet, target_macs=0.5, teacher=traced)
        assert rows[-1]["macs_left"] <= 0.5
        trained[recorded] = rows[-1]["loss"], model.cpu()
    assert trained[True][0] == pytest.approx(trained[False][0], rel=0.1)
    own = trained[True][1].state_dict()
    for name, known in trained[False][1].state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert own[name] == known


@needs_gpu
def test_other_shapes_and_frozen_norms(data: ImageData) -> None:
    network = graph(data).cuda().train()
    norm = network.get_submodule("1.0.norm1")
    norm.eval()
    images = sample_inputs(data, 6).cuda()
    plain = copy.deepcopy(network)
    recorded = CudaGraphs(network)
    for batch in (images, images[:4], images * 2):
        torch.manual_seed(1)
        expected = plain(batch)
        torch.manual_seed(1)
        logits = recorded(batch)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
        logits.sum().backward()
        expected.sum().backward()
        for own, known in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, known.grad, rtol=1e-2, atol=1e-2)
            own.grad = known.grad = None
    assert not norm.training
    for own_buffer, known_buffer in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own_buffer, known_buffer)


_READS = """
import torch
from fxprune.training.cuda_graphs import CudaGraphs

class Reads(torch.nn.Module):
    def forward(self, x):
        return x * float(x.sum())

CudaGraphs(torch.nn.Sequential(torch.nn.Linear(4, 4), Reads()).cuda())(torch.ones(2, 4).cuda())
"""


@needs_gpu
def test_what_cannot_be_recorded() -> None:
    # In a process of its own: torch's generator is of no use once a recording has failed.
    done = subprocess.run([sys.executable, "-c", _READS], capture_output=True, text=True)
    assert "FxpruneError: the network cannot be recorded as CUDA graphs" in done.stderr
