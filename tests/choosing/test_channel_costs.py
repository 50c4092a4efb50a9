"""What channels are said to hold is what their cut takes away, on networks of every structure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import NETS
from numpy.typing import NDArray
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_costs import held
from fxprune.choosing.channel_ranking import ChannelRanking, Field
from fxprune.choosing.channel_scores import channel_scores
from fxprune.costs.macs import total_macs, total_params
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.reading import unread


def held_by(channels: Channels, *groups: Collection[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    owner = np.zeros(len(channels.labels), dtype=np.int64)
    for number, classes in enumerate(groups, start=1):
        owner[list(classes)] = number
    return held(channels, owner[channels.class_of], len(groups))


def costs(graph: fx.GraphModule) -> tuple[int, int]:
    return total_macs(graph), total_params(graph)


@pytest.mark.parametrize("name", NETS)
def test_they_hold_what_a_cut_takes_away(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    channels = Channels(traced)
    field, scores = Field("", channels, unread(channels)), channel_scores(traced, "random")
    for group in channels.groups if scores else ():
        field.score(group, scores[""][group.free])
    (gone,) = ChannelRanking([field], Amount(ratio=0.5)).at(1.0)
    cut = passes.RemoveChannels(ratio=0.5, criterion="random")(traced).graph_module
    told = [a - b for a, b in zip(field.costs.left()[:2], field.costs.left(gone)[:2], strict=True)]
    for before, after, found, saved in zip(costs(traced), costs(cut), held_by(channels, gone), told, strict=True):
        assert before - after == pytest.approx(found[1], abs=1)
        assert found[0] == found[1] == pytest.approx(saved)


def test_what_lies_in_a_row_and_a_column_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(16, 5, 1))
    channels = Channels(fxprune.trace(model, torch.randn(2, 3, 4, 4)))
    first, second, _ = channels.groups
    macs, params = held_by(channels, first.classes[:2], second.classes[:4])
    assert macs.tolist() == [16 * n for n in (2 * 3 + (8 * 16 - 6 * 12) + 4 * 5, 2 * 3 + 2 * 16, 4 * 8 + 4 * 5)]
    assert params.tolist() == [m / 16 + bias for m, bias in zip(macs, (2, 2, 0), strict=True)]


def test_the_products_of_attention_are_over_heads_queries_and_values() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.out = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            q, k, v = (one(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).flatten(2))

    traced = fxprune.trace(Attention(), torch.randn(2, 6, 8))
    channels = Channels(traced)
    keys = next(group for group in channels.groups if group.name == "q")
    macs, _ = held_by(channels, keys.free[:1])
    whole = 2 * 6 * 6 * 4  # of each of the two products
    assert macs[1] == 2 * 6 * 8 * 2 + whole / 4
