"""The pass that chooses channels, by the options beside targets."""

from __future__ import annotations

from typing import Any

import pytest

import fxprune
from fxprune.passes import RemoveChannels
from fxprune.pruning.channel_step import channel_step


def test_it_is_the_pass_with_these_options() -> None:
    found = channel_step("choose", fxprune.Targets(macs=0.5, params=0.7), {"scope": "global", "keep": ["head"]})
    assert found == RemoveChannels(target_macs=0.5, target_params=0.7, scope="global", keep=["head"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "search takes targets, or a ratio of channels: how much is to go"),
        ({"ratios": 0.5}, "search has no option 'ratios'; did you mean 'ratio'"),
        ({"indices": {}}, "search has no option 'indices'"),
        ({"ratio": 0.5, "criterion": "l1"}, "search has no option 'criterion'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        channel_step("search", fxprune.Targets(), options, without=("criterion",))
