"""Which channels can go together: classes, groups, and why others stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from channel_nets import NETS, conv
from torch import fx, nn

import fxprune
from fxprune.ops.op import Op
from fxprune.ops.table import with_rows
from fxprune.structures.channels.groups import Channels, Group


def channels_of(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> Channels:
    return Channels(fxprune.trace(model.eval(), inputs), **options)


def group(channels: Channels, name: str) -> Group:
    return next(one for one in channels.groups if one.name == name)


def reasons(channels: Channels, name: str) -> set[str]:
    return {channels.reasons[int(one)].why for one in group(channels, name).classes if int(one) in channels.reasons}


def test_a_residual_network_has_one_group_a_stage_and_one_a_block() -> None:
    channels = channels_of(torchvision.models.resnet18(), torch.randn(2, 3, 64, 64))
    found = {one.name: (one.width, len(one.free)) for one in channels.groups}
    assert found["conv1"] == (64, 64)
    assert found["layer1.0.conv1"] == (64, 64)
    assert found["fc"] == (1000, 0)
    assert len(found) == 13
    assert reasons(channels, "fc") == {"an output of the network"}


def test_what_is_concatenated_stays_apart() -> None:
    channels = channels_of(*_net("Dense"))
    assert [one.width for one in channels.groups if len(one.free)] == [8, 4, 4, 4]


def test_heads_and_head_sizes() -> None:
    within = channels_of(*_net("FusedAttention"))
    whole = channels_of(*_net("FusedAttention"), whole=True)
    assert group(within, "q").width == 4
    assert group(whole, "q").width == 4
    assert set(within.class_of[within.outputs["q"]]) != set(whole.class_of[whole.outputs["q"]])


def _net(name: str) -> tuple[Any, ...]:
    model, inputs = NETS[name]()
    return (model, *inputs)


@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        ("SelectedChannel", "stem.0", "takes one of the channels"),
        ("ConvNextBlock", "stem.0", "its statistics are of all channels: statistics='approximate' lets them change"),
        ("EfficientChannelAttention", "stem.0", "slides over the axis that they are on"),
    ],
)
def test_what_stays_has_its_reason(name: str, layer: str, why: str) -> None:
    assert why in reasons(channels_of(*_net(name)), layer)


def test_an_unknown_op_is_a_barrier_that_names_the_row_to_write() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.b(own_activation(self.a(x)))
            return y

    traced = fxprune.trace(Net().eval(), torch.randn(2, 3, 8, 8))
    (why,) = reasons(Channels(traced), "a")
    assert why.startswith("no row of the table of ops says what own_activation does with channels: add Op(")
    with with_rows([Op("own", "elementwise", "input;", functions=(own_activation,))]):
        assert len(group(Channels(traced), "a").free) == 8


@fx.wrap
def own_activation(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def test_approximate_statistics_free_what_a_layer_norm_reads() -> None:
    channels = channels_of(*_net("ConvNextBlock"), approximate=True)
    assert len(group(channels, "stem.0").free) == 8


def test_the_graph_stays_as_it_is() -> None:
    model, inputs = NETS["SplitShuffle"]()
    traced = fxprune.trace(model.eval(), inputs)
    before = str(traced.graph)
    Channels(traced)
    assert str(traced.graph) == before


def test_of_groups_with_two_channels_each_whole_ones_go() -> None:
    torch.manual_seed(0)
    model, inputs = NETS["PairsGrouped"]()
    (stem, *_) = Channels(fxprune.trace(model.eval(), inputs)).groups
    assert (stem.width, len(stem.free)) == (8, 8)
