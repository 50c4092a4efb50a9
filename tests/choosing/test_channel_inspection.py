"""Which channels can go, with which layers, what they hold, and why the others stay."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from channel_nets import NETS, conv
from torch import nn
from torch.nn.utils import parametrizations

import fxprune
from fxprune import passes
from fxprune.choosing.channel_inspection import inspect_channels
from fxprune.choosing.channel_report import ChannelGroup
from fxprune.costs.macs import total_macs
from fxprune.structures.channels.groups import Channels


class Residual(nn.Module):
    """A stem, a branch with a depthwise conv on it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.inner, self.depthwise, self.outer = conv(8, 16, 1), conv(16, 16, groups=16), conv(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.stem(x))
        x = x + self.outer(self.depthwise(self.inner(x)).relu())
        return self.head(x.mean((2, 3)))


def groups_of(model: nn.Module, *inputs: torch.Tensor, **kept: Any) -> dict[str, ChannelGroup]:
    graph = fxprune.trace(model.eval(), inputs or torch.randn(2, 3, 8, 8))
    return {one.name: one for one in inspect_channels(graph, **kept).groups}


def test_a_group_is_told_with_its_layers() -> None:
    groups = groups_of(Residual())
    assert list(groups) == ["stem", "inner", "head"]
    stem, inner, head = groups.values()
    assert stem.made_by == ("stem", "outer")
    assert stem.carried_by == ("norm",)
    assert stem.tied_at == ("add",)
    assert set(stem.read_by) == {"inner", "head"}
    assert (stem.width, stem.removable, stem.choices, stem.stays) == (8, 8, 8, ())
    assert (inner.made_by, inner.carried_by, inner.tied_at) == (("inner",), ("depthwise",), ())
    assert inner.params == 16 * 8 + 16 + 16 * 9 + 16 + 16 * 8  # no bias of outer's
    assert inner.macs == 64 * (16 * 8 + 16 * 9 + 16 * 8)
    assert (head.removable, head.macs, head.params) == (0, 0, 0)
    assert [(one.at, one.op, one.why) for one in head.stays] == [("output", "output", "an output of the network")]


def test_the_whole_is_told() -> None:
    graph = fxprune.trace(Residual().eval(), torch.randn(2, 3, 8, 8))
    found = inspect_channels(graph)
    assert (found.outputs, found.removable_outputs) == (8 + 16 + 8 + 5, 32)
    assert found.macs == total_macs(graph) == found.removable_macs  # the head's columns can go too
    assert sum(one.macs for one in found.groups) > found.macs


def test_channels_of_groups_are_one_choice() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 16, groups=2), conv(16, 5))
    first, second, _ = groups_of(model).values()
    assert (first.width, first.removable, first.choices) == (8, 8, 4)
    assert (second.width, second.removable, second.choices) == (16, 16, 8)


def test_of_groups_of_two_channels_whole_ones_are_the_choice() -> None:
    (both, _) = groups_of(nn.Sequential(conv(3, 8), conv(8, 16, groups=4), conv(16, 5))).values()
    assert (both.width, both.removable, both.choices) == (8, 8, 4)


def test_what_the_user_keeps_stays() -> None:
    groups = groups_of(Residual(), keep=["outer"])
    assert groups["stem"].removable == 0
    (stay,) = groups["stem"].stays
    assert (stay.at, stay.why, stay.choices) == ("outer", "kept by the user", 8)
    assert groups["stem"].freed_by == ("other patterns of keep and only",)
    assert groups["inner"].removable == 16


def test_approximate_statistics_are_tried() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b, self.c = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            y = self.a(x)
            return self.c(y + self.b(self.norm(y)))

    group = groups_of(Normed(), torch.randn(2, 6))["a"]
    assert group.removable == 0
    assert group.freed_by == ("statistics='approximate'",)
    assert group.width == 8


def test_computed_weights_are_freed_by_freezing_them() -> None:
    model = nn.Sequential(conv(3, 8), parametrizations.weight_norm(conv(8, 8)), conv(8, 5))
    (stay,) = groups_of(model)["0"].stays
    assert stay.freed_by == "FreezeWeights"


def test_layers_of_attention_are_not_looked_into() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.attention, self.b = nn.Linear(6, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            y = self.a(x)
            return self.b(self.attention(y, y, y, need_weights=False)[0])

    graph = fxprune.trace(Attending().eval(), torch.randn(2, 4, 6))
    found = inspect_channels(graph)
    assert [(one.at, one.op, one.freed_by) for one in found.closed] == [
        ("attention", "MultiheadAttention", "SplitAttention")
    ]
    assert "not looked into: attention: MultiheadAttention " in str(found)
    assert found.groups[0].freed_by == ("SplitAttention",)
    split = inspect_channels(passes.SplitAttention()(graph).graph_module)
    assert split.closed == ()
    assert split.groups[0].removable == 8


def test_a_function_is_named_and_not_where_it_lies_in_memory() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 5)

        def forward(self, x: Any) -> Any:
            return self.b(torch.fft.fft(self.a(x), dim=1).real)

    whys = [stay.why for one in groups_of(Sorting()).values() for stay in one.stays]
    assert any("fft_fft" in why for why in whys)
    assert "0x" not in " ".join(whys)


class Choosing(nn.Module):
    """Branches on a value, so that it stays opaque; what is inside it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 3))

    def forward(self, x: Any) -> Any:
        y = self.net(x)
        return y if y.sum() > 0 else -y


def test_regions_are_inspected_under_their_paths() -> None:
    graph = fxprune.trace(nn.Sequential(conv(3, 3, 1), Choosing()).eval(), torch.randn(2, 3, 8, 8))
    found = inspect_channels(graph, keep=["1.net.2"])
    inner = next(one for one in found.groups if one.name == "1.net.0")
    assert (inner.removable, inner.made_by, inner.read_by) == (8, ("1.net.0",), ("1.net.2",))
    assert inner.macs == found.removable_macs == 64 * 9 * (3 * 8 + 8 * 3)


@pytest.mark.parametrize("name", NETS)
def test_groups_are_those_that_are_cut(name: str) -> None:
    model, inputs = NETS[name]()
    graph = fxprune.trace(model.eval(), inputs)
    found, channels = inspect_channels(graph), Channels(graph)
    assert sum(one.choices for one in found.groups) <= sum(one.width for one in channels.groups)
    assert [one.choices for one in found.groups if one.removable] == [x.width for x in channels.groups if len(x.free)]
    for one in found.groups:
        assert 0 <= one.removable <= one.width
        assert one.width >= one.choices
        assert one.made_by
        assert bool(one.stays) == (one.removable < one.width)
        assert 0 <= one.macs <= found.removable_macs <= found.macs
    assert 0 <= found.removable_outputs <= found.outputs
    assert bool(found.removable_outputs) == any(one.removable for one in found.groups)


@pytest.mark.parametrize("name", ["SqueezeExcite", "SplitShuffle", "Attention", "Functional"])
def test_gates_change_nothing(name: str) -> None:
    model, inputs = NETS[name]()
    graph = fxprune.trace(model.eval(), inputs)
    gated = passes.InsertChannelGate()(graph).graph_module
    plain, scaled = ([asdict(one) for one in inspect_channels(each).groups] for each in (graph, gated))
    for one in (*plain, *scaled):
        del one["tied_at"], one["read_by"]  # by the names of nodes
    assert plain == scaled


def test_positions_and_biases_that_stay_are_left_out() -> None:
    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.scale = nn.Parameter(torch.randn(1, 5, 1)), nn.Parameter(torch.ones(1, 8))
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.b((self.a(x) * self.scale) + self.positions).flatten(1)

    groups = groups_of(Positioned(), torch.randn(2, 5, 6))
    assert list(groups) == ["a", "b"]
    assert groups["a"].carried_by == ("scale",)
    assert groups["a"].tied_at == ()
