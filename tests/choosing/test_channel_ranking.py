"""The order in which channels go, by group, by stage and over all; how many stay at least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import conv
from torch import nn

import fxprune
from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.channel_ranking import ChannelRanking, Field
from fxprune.choosing.targets import Targets
from fxprune.structures.channels.groups import Channels

WIDTHS = (10, 20, 30)


def chain(*widths: int, groups: int = 1) -> nn.Sequential:
    pairs = zip((3, *widths), (*widths, 5), strict=True)
    return nn.Sequential(*(conv(a, b, groups=groups if a % groups == b % groups == 0 else 1) for a, b in pairs))


def field_of(model: nn.Module, worth: Sequence[float] = (), **options: Any) -> Field:
    """The channels of a network, the first ones of each group worth least, each group times a factor."""
    channels = Channels(fxprune.trace(model.eval(), torch.randn(2, 3, 6, 6)))
    found = Field("", channels, **options)
    for group, factor in zip(channels.groups, worth or [1.0] * len(channels.groups), strict=False):
        found.score(group, factor * np.arange(1.0, len(group.free) + 1))
    return found


def left(field: Field, amount: Amount, level: float = 1.0) -> list[int]:
    (gone,) = ChannelRanking([field], amount).at(level)
    return [len(set(group.classes.tolist()) - gone) for group in field.channels.groups[:-1]]


@pytest.mark.parametrize(("ratio", "expected"), [(0.29, [8, 15, 22]), (0.3, [7, 14, 21]), (0.99, [2, 2, 2])])
def test_a_ratio_is_of_each_group(ratio: float, expected: list[int]) -> None:
    assert left(field_of(chain(*WIDTHS)), Amount(ratio=ratio)) == expected


def test_a_ratio_that_is_a_whole_number_of_channels_is_not_rounded_down() -> None:
    field = field_of(chain(100))
    for share in range(1, 98):
        assert left(field, Amount(ratio=share / 100)) == [100 - share]


def test_one_ratio_a_stage() -> None:
    amount = Amount(ratio={"0": 0.5, "[01]": 0.1})
    assert left(field_of(chain(*WIDTHS)), amount) == [5, 18, 30]
    both = Amount(ratio={"[12]": 0.5}, scope="global")  # the stage is ranked in one: 25 of 50
    assert left(field_of(chain(*WIDTHS), (1, 1, 1e3, 1)), both) == [10, 2, 23]


def test_one_ranking_over_all_groups() -> None:
    field = field_of(chain(*WIDTHS), (1e3, 1, 1, 1))
    assert left(field, Amount(ratio=0.5, scope="global")) == [10, 5, 15]  # 30 of 60


def test_for_targets_the_ranking_is_by_what_each_saves() -> None:
    field = field_of(chain(16, 16, 16))
    scope: Any = {"scope": "global", "targets": Targets(macs=0.5)}
    first, second, third = left(field, Amount(**scope), 0.4)
    assert first > second  # a channel of the first conv saves 3 + 16 rows and columns, one of the second 32
    assert third > second


def test_what_is_left_of_a_group_is_a_multiple() -> None:
    field = field_of(chain(16, 20, 30, 7))
    assert left(field, Amount(ratio=0.5, multiple_of=8)) == [8, 16, 16, 7]
    assert left(field, Amount(ratio=0.1, multiple_of=8)) == [16, 20, 30, 7]
    assert left(field, Amount(ratio=0.99, multiple_of=8)) == [8, 8, 8, 7]
    assert left(field, Amount(ratio=0.99, multiple_of=3)) == [3, 3, 3, 3]


def test_a_multiple_is_of_channels_where_several_go_together() -> None:
    field = field_of(chain(16, 32, 16, groups=4))
    of_a_class = [field.channels_of_a_class(group) for group in field.channels.groups]
    assert of_a_class[:3] == [4, 4, 4]
    assert left(field, Amount(ratio=0.5, multiple_of=8)) == [2, 4, 2]
    assert left(field, Amount(ratio=0.99, multiple_of=12)) == [3, 3, 3]
    assert left(field, Amount(ratio=0.99, least=12)) == [3, 3, 3]


def test_so_many_stay_at_least() -> None:
    field = field_of(chain(*WIDTHS))
    assert left(field, Amount(ratio=0.9, least=8)) == [8, 8, 8]
    assert left(field, Amount(ratio=0.9, least=0.25)) == [3, 5, 8]
    assert left(field, Amount(ratio=0.9, least=0.25, multiple_of=4)) == [4, 8, 8]
    assert left(field, Amount(ratio=0.9, least=12)) == [10, 12, 12]


def test_what_nobody_reads_goes_first_and_counts() -> None:
    field = field_of(chain(*WIDTHS))
    first = field.channels.groups[0]
    silent = set(first.classes[-3:].tolist())
    dead = field_of(chain(*WIDTHS), silent=silent)
    assert left(dead, Amount(), 0.0) == [7, 20, 30]
    (gone,) = ChannelRanking([dead], Amount(ratio=0.5)).at(1.0)
    assert set(first.classes.tolist()) & gone == {*silent, *first.classes[:2].tolist()}
    assert left(dead, Amount(least=9), 0.0) == [9, 20, 30]


def test_what_is_barred_stays() -> None:
    field = field_of(chain(*WIDTHS))
    field.bar(field.channels.groups[1].classes.tolist())
    assert left(field, Amount(ratio=0.5)) == [5, 20, 15]
    field.score(field.channels.groups[2], np.where(np.arange(30) < 20, np.inf, 1.0))
    assert left(field, Amount(ratio=0.5)) == [5, 20, 20]
