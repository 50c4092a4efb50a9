"""Which convs are judged, and which are alike: plain networks, basic blocks, bottlenecks, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from benchmarks import networks
from fxprune.structures.channels.groups import Channels
from fxprune.structures.judged_convs import JudgedConv, judged_convs
from fxprune.structures.residual_convs import residual_blocks


def examined(model: nn.Module, *size: int) -> tuple[list[JudgedConv], dict[str, str]]:
    """Return the judged convs, and why the others are not, by path."""
    graph = fxprune.trace(model.eval(), torch.randn(size or (2, 3, 32, 32)))
    found = list(judged_convs(Channels(graph)))
    judged = [one for one in found if isinstance(one, JudgedConv)]
    return judged, {str(one[0].target): one[1] for one in found if not isinstance(one, JudgedConv)}


def test_every_conv_of_a_plain_network_is_judged_alone() -> None:
    judged, others = examined(networks.vgg11())
    assert [one.width for one in judged] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert {one.tie for one in judged} == {None}
    assert others == {}


def test_blocks_of_a_stage_are_alike() -> None:
    judged, others = examined(networks.resnet20b())
    assert others == {}
    ties = {one.path: one.tie for one in judged}
    for stage in (1, 2, 3):
        for conv in (1, 2):
            assert len({ties[f"layer{stage}.{block}.conv{conv}"] for block in range(3)}) == 1
    assert ties["conv1"] is ties["layer2.0.shortcut.0"] is None
    firsts = {ties[f"layer{stage}.0.conv{conv}"] for stage in (1, 2, 3) for conv in (1, 2)}
    assert len(firsts) == 6


class Bottleneck(nn.Module):
    def __init__(self, ins: int, middle: int, outs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(ins, outs, 1)
        self.one, self.three, self.last = (
            nn.Conv2d(ins, middle, 1),
            nn.Conv2d(middle, middle, 3, padding=1),
            nn.Conv2d(middle, outs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.down(x) + self.last(torch.relu(self.three(torch.relu(self.one(x))))))


def test_of_a_bottleneck_the_middle_is_judged() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(8, 6, 16), Bottleneck(16, 6, 16), nn.Conv2d(16, 4, 1))
    judged, others = examined(model, 2, 3, 16, 16)
    assert [one.path for one in judged] == ["0", "1.three", "2.three"]
    assert {one.tie for one in judged} == {None}
    assert "a 1x1 conv of a bottleneck" in others["1.one"]
    assert "a 1x1 conv of a bottleneck" in others["2.last"]
    assert "bottlenecks are added to its output" in others["1.down"]
    assert "an output of the network" in others["3"]


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = y * self.fc2(self.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        found: torch.Tensor = self.head(y.mean((2, 3)))
        return found


def test_convs_on_single_pixels_are_linear_layers() -> None:
    judged, others = examined(Squeezed(), 2, 3, 8, 8)
    assert [one.path for one in judged] == ["conv"]
    assert others.keys() == {"fc1", "fc2"}
    assert "a linear layer" in others["fc1"]


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.a(x) + self.b(x)
        return y + torch.relu(self.a(y))


@pytest.mark.parametrize("image", [6, 9])
def test_of_two_paths_alike_neither_is_a_block(image: int) -> None:
    graph = fxprune.trace(Same().eval(), torch.randn(2, 4, image, image))
    blocks = residual_blocks(graph)
    assert [[str(conv.target) for conv in block.convs] for block in blocks] == [["a"]]
