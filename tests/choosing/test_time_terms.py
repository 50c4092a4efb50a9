"""The time that is left by formula is that of the network that was really cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from channel_nets import NETS
from channel_training import Block
from fake_latency import FakeTable, plain
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.time_terms import fit_of
from fxprune.errors import FxpruneError
from fxprune.ir.copies import copy_module
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.channel_chunk import Chunk
from fxprune.training.cifar_resnet import CifarResNet

MORE_GOES = {"Slices", "UnreadChannels"}  # what nobody reads goes too
LESS_GOES = {"OverlappingParts"}  # each of its parts keeps two
TIMED_OTHERWISE = {"FrozenNorms", "RelativeBias", "SizesAsNumbers", "Gram"}  # ops of constants; sizes equal by chance


@pytest.mark.parametrize("name", sorted(NETS.keys() - MORE_GOES - LESS_GOES - TIMED_OTHERWISE))
def test_time_without_channels_is_that_of_the_cut_graph(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    graph = passes.InsertChannelGate()(traced).graph_module
    latency = FakeTable(len(inputs[0]), stairs=3)
    remaining = Remaining(graph, latency=latency)
    assert time_left(remaining, latency, []) == pytest.approx(latency.milliseconds(plain(traced)))
    chunks = []
    for path, gate in remaining.channels.items():
        places = torch.randperm(gate.width)[: gate.width // 2].tolist()
        scale = torch.ones(gate.width)
        scale[places] = 0
        gate.assign(scale=scale)
        chunks += [remaining.chunk(path, places)] if places else []
    cut = plain(graph)
    assert time_left(remaining, latency, chunks) == pytest.approx(latency.milliseconds(cut))
    for chunk in chunks:
        gone = remaining.left(()).milliseconds - remaining.left([chunk]).milliseconds
        assert remaining.saved([chunk], ())[chunk.path].milliseconds == pytest.approx(gone)


def residual() -> tuple[nn.Module, torch.Tensor]:
    return CifarResNet(20), torch.randn(2, 3, 8, 8)


def inverted() -> tuple[nn.Module, torch.Tensor]:
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    model = torchvision.models.MobileNetV2(num_classes=5, width_mult=0.5, inverted_residual_setting=settings)
    return model, torch.randn(2, 3, 16, 16)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5)
    return model, torch.randn(2, 3, 16, 16)


class WithOpaque(nn.Module):
    """A network of convs, two of them in a part that only runs whole, as detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.whole = nn.Sequential(Block(8, 8), Block(8, 8)), Whole()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.whole(self.body(torch.relu(self.stem(x)))))
        return y


class Whole(nn.Module):
    """Branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Block(8, 8), Block(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y if float(y.detach().sum()) > 0 else -y


def with_opaque() -> tuple[nn.Module, torch.Tensor]:
    return WithOpaque(), torch.randn(2, 3, 8, 8)


MAKERS: list[Callable[[], tuple[nn.Module, torch.Tensor]]] = [residual, inverted, transformer, with_opaque]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("what", ["convs", "branches", "branches,channels", "channels"])
def test_time_without_layers_and_channels_is_that_of_the_cut_graph(
    make: Callable[[], tuple[nn.Module, torch.Tensor]], what: str
) -> None:
    torch.manual_seed(0)
    model, images = make()
    traced = fxprune.trace(model.eval(), images)
    if not inspected(traced, what):
        return
    graph = insert_scales(traced, what=what, verify=False).graph_module
    latency = FakeTable(2, stairs=2)
    for seed in range(2):
        remaining = Remaining(graph, latency=latency)
        chosen = random.Random(seed)
        layers = [one for one in remaining.layers.values() if chosen.random() < 0.4]
        groups = [one for one in remaining.channels.items() if chosen.random() < 0.5]
        chunks = [remaining.chunk(path, chosen.sample(range(gate.width), gate.width // 2)) for path, gate in groups]
        sites: list[Site] = [*layers, *(one for one in chunks if one.places)]
        cut = copy_module(graph)
        assert isinstance(cut, fx.GraphModule)
        close(cut, sites)
        assert time_left(remaining, latency, sites) == pytest.approx(latency.milliseconds(plain(cut)))


def inspected(traced: fx.GraphModule, what: str) -> bool:
    """Say whether there is anything of that kind."""
    try:
        insert_scales(traced, what=what, verify=False)
    except FxpruneError:
        return False
    return True


@torch.no_grad()
def close(graph: fx.GraphModule, sites: Sequence[Site]) -> None:
    """Close what goes."""
    gates = {one.path: one for one in fxprune.gates_of(graph)}
    for site in sites:
        gate = gates[site.path]
        if isinstance(site, Chunk):
            scale = torch.ones(gate.width)
            scale[list(site.places)] = 0
            gate.assign(scale=scale)
        else:
            gate.assign(scale=0.0, **({"shortcut": 1.0} if gate.module.has_shortcut else {}))


def time_left(remaining: Remaining, latency: FakeTable, sites: Sequence[Site]) -> float:
    return fit_of(latency)[0] + remaining.left(sites).milliseconds
