"""What one graph costs without channels and nodes, by formula; test_remaining.py holds it to real cuts."""

from __future__ import annotations

import pytest
import torch
from channel_nets import NETS
from torch import nn

import fxprune
from fxprune.choosing.graph_costs import GraphCosts
from fxprune.costs.macs import total_macs, total_params
from fxprune.structures.channels.groups import Channels


def three_convs() -> Channels:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(16, 5, 1))
    return Channels(fxprune.trace(model, torch.randn(2, 3, 4, 4)))


def test_what_goes_with_each_class_alone_is_told_to_first_order() -> None:
    channels = three_convs()
    costs = GraphCosts(channels.graph_module, channels)
    each = costs.of_each(len(channels.labels))
    first, second, _ = channels.groups
    assert each["macs"][first.classes].tolist() == pytest.approx([16 * (3 + 16)] * 8)
    assert each["params"][second.classes].tolist() == pytest.approx([8 + 5] * 16)
    saved = costs.saved(first.classes[:1].tolist())
    assert (saved.macs, saved.params) == pytest.approx((16 * (3 + 16), 3 + 1 + 16))


def test_what_goes_beside_others_is_what_is_left_less() -> None:
    channels = three_convs()
    costs = GraphCosts(channels.graph_module, channels)
    first, second, _ = (one.classes.tolist() for one in channels.groups)
    gone = frozenset(first[:3])
    before, after = costs.left(gone), costs.left([*first[:3], *second[:4]])
    saved = costs.saved(second[:4], gone_classes=gone)
    assert tuple(saved) == pytest.approx(tuple(a - b for a, b in zip(before, after, strict=True)))


def test_nodes_take_what_they_alone_hold() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.shared = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.shared(self.shared(self.own(x)))
            return y

    costs = GraphCosts(fxprune.trace(Twice(), torch.randn(2, 4)))
    own, first, second = costs.graph.find_nodes(op="call_module", target="own") + costs.graph.find_nodes(
        op="call_module", target="shared"
    )
    assert costs.left() == costs.left((), frozenset())
    assert costs.saved((), frozenset([own]))[:2] == (16, 16)
    assert costs.saved((), frozenset([first]))[:2] == (16, 0)
    assert costs.saved((), frozenset([first]), gone=frozenset([second]))[:2] == (16, 16)
    assert costs.left((), frozenset([own, first, second]))[:2] == (0, 0)


@pytest.mark.parametrize("name", NETS)
def test_all_that_a_graph_costs_is_counted(name: str) -> None:
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    whole = total_macs(traced), total_params(traced)
    assert GraphCosts(traced, Channels(traced)).left()[:2] == pytest.approx(whole)
    assert GraphCosts(traced).left()[:2] == pytest.approx(whole)


def test_what_multiplies_along_no_axis_that_is_known_counts() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(3, 8, 1), nn.LSTM(8, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.lstm(self.conv(x).transpose(1, 2))[0]
            return y

    traced = fxprune.trace(Recurrent().eval(), torch.randn(2, 3, 6))
    assert GraphCosts(traced, Channels(traced)).left().macs == total_macs(traced)
