"""Training steps recorded as CUDA graphs are the steps that are taken without."""

from __future__ import annotations

import copy
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import quiet
from torch import fx, nn

import fxprune
from fxprune.errors import FxpruneError
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.proximal import ProximalL1
from fxprune.training import cuda_graphs
from fxprune.training.cuda_graphs import CudaGraphs, separate_gradients
from fxprune.training.data import ImageData, load_data, sample_inputs
from fxprune.training.engine import make_accelerator
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

SETTINGS = Settings(epochs=2, lr=0.01, batch_size=64, shrink_share=0.5, cuda_graphs=True)
pytestmark = pytest.mark.usefixtures("fresh_engine")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are recorded on a GPU")


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


@pytest.mark.parametrize("other", [{"compile": True}, {"accumulate": 2}])
def test_what_it_does_not_go_with(other: dict[str, Any]) -> None:
    with pytest.raises(FxpruneError, match="cuda_graphs goes neither with compile nor with accumulate"):
        replace(SETTINGS, **other)


def test_on_a_cpu_there_are_none() -> None:
    with pytest.raises(FxpruneError, match="for one process on a GPU, not for device cpu"):
        make_accelerator(replace(SETTINGS, device="cpu"))


class Fake:
    """Stands for a recording; in a circle, as torch's are."""

    def __init__(self, network: nn.Module, images: torch.Tensor) -> None:
        self.network, self.shape, self.circle = network, images.shape, self

    def __call__(self, images: torch.Tensor) -> Any:
        assert images.shape == self.shape
        return self.network(images)


def test_a_larger_batch_is_recorded_anew_and_a_smaller_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Fake] = []

    def record(network: nn.Module, images: torch.Tensor) -> Fake:
        made.append(Fake(network, images))
        return made[-1]

    monkeypatch.setattr(cuda_graphs, "_record", record)
    called = CudaGraphs(nn.Identity())
    for count, recorded in ((6, [6]), (6, [6]), (4, [6]), (8, [6, 8]), (8, [6, 8]), (6, [6, 8])):
        assert len(called(torch.ones(count, 1, 2, 2))) == count
        assert [one.shape[0] for one in made] == recorded


def test_an_old_recording_is_gone_before_the_next_is_made(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    made: weakref.WeakSet[Fake] = weakref.WeakSet()

    def record(network: nn.Module, images: torch.Tensor) -> Fake:
        alive.append(len(made))
        one = Fake(network, images)
        made.add(one)
        return one

    monkeypatch.setattr(cuda_graphs, "_record", record)
    accelerator = make_accelerator(Settings(device="cpu"))
    model = insert_scales(graph(data), "all").graph_module
    shrink = ProximalL1(model, 0.0)
    trainer = Trainer(model, data, SETTINGS, Metrics(None, accelerator), shrink=shrink)
    trainer.prepare()
    images, labels = sample_inputs(data, 8), torch.zeros(8, dtype=torch.long)
    trainer._train_step(images, labels)
    next(iter(shrink.layers.values())).close()
    trainer.prepare()
    trainer._train_step(images, labels)
    assert alive == [0, 0]
    trainer.finish()
    assert not made


def test_gradients_that_are_one_tensor_are_separated() -> None:
    shared = torch.ones(3)
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(4)]
    for parameter, gradient in zip(parameters, (shared, shared.detach(), torch.ones(3), None), strict=True):
        parameter.grad = gradient
    separate_gradients(parameters)
    shared.add_(1)
    gradients = [None if one.grad is None else one.grad.tolist() for one in parameters]
    assert gradients == [[2.0] * 3, [1.0] * 3, [1.0] * 3, None]


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_steps_are_the_same(data: ImageData, precision: Literal["float32", "bf16"]) -> None:
    trained = {}
    for recorded in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        traced = graph(data)
        model = insert_scales(copy.deepcopy(traced), "all").graph_module
        settings = replace(SETTINGS, precision=precision, distill=0.5, distill_features=1.0, cuda_graphs=recorded)
        rows = train(model, data, settings, quiet, shrink=fxprune.Targets(macs=0.5), teacher=traced)
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
    ran: list[int] = []
    network.get_submodule("1.0.conv1").register_forward_hook(lambda *call: ran.append(len(call[1][0])))
    for batch, runs in ((images, None), (images[:4], [4]), (images * 2, [])):
        ran.clear()
        torch.manual_seed(1)
        expected = plain(batch)
        torch.manual_seed(1)
        logits = recorded(batch)
        assert runs is None or ran == runs  # Python runs while it is recorded, and for another shape
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
        logits.sum().backward()
        expected.sum().backward()
        for own, known in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, known.grad, rtol=1e-2, atol=1e-2)
            with torch.no_grad():  # what is replayed reads the weights as they are then
                own.mul_(1.5)
                known.mul_(1.5)
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
