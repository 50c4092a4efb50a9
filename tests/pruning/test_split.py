"""The split between layers and channels: each site counts with what it saved when it closed."""

from __future__ import annotations

import pytest
from channel_training import gated

from fxprune.choosing.remaining import Remaining
from fxprune.pruning.split import split_of


def test_shares_are_of_each_kind_and_add_up() -> None:
    remaining = Remaining(gated("branches,channels"))
    branch, chunk = remaining.layers["one.branch_scale"], remaining.chunk("one.first_channels", [0, 1])
    whole = remaining.left(())
    costs = whole.macs, int(whole.params)
    first = split_of(remaining, [chunk, branch], *costs)
    # two of the eight channels inside a block, of 2 * 9 * 16 * 8 MACs at each of 64 places
    macs = 9 * 16 * 8 * 2 * 64
    assert first["channels"]["macs"] * whole.macs == pytest.approx(macs / 4)
    assert first["branches"]["macs"] * whole.macs == pytest.approx(macs * 3 / 4)
    second = split_of(remaining, [branch, chunk], *costs)
    assert second["channels"]["macs"] == pytest.approx(0)
    assert second["branches"]["macs"] * whole.macs == pytest.approx(macs)
    left = remaining.left([branch, chunk])
    for split in (first, second):
        assert sum(one["params"] for one in split.values()) == pytest.approx(1 - left.params / whole.params)


def test_kinds_without_gates_are_left_out() -> None:
    assert list(split_of(Remaining(gated()), [], 1.0, 1)) == ["channels"]
    assert list(split_of(Remaining(gated("all")), [], 1.0, 1)) == ["convs", "branches", "channels"]
