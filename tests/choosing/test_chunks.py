"""Which channels close next: those that are read least, in chunks by the group's width."""

from __future__ import annotations

import pytest
import torch
from channel_training import gated

import fxprune
from fxprune.choosing.chunks import Chunks
from fxprune.choosing.remaining import Remaining


def test_sizes_follow_the_width_and_two_stay() -> None:
    remaining = Remaining(gated())
    chunks = Chunks(remaining, share=0.25, multiple_of=1)
    assert chunks.sizes == {"stem_channels": 4, "one.first_channels": 2, "two.first_channels": 4}
    assert Chunks(remaining, 0.25, multiple_of=4).sizes["one.first_channels"] == 4
    worth = {path: torch.arange(gate.width).double().numpy() for path, gate in remaining.channels.items()}
    first = {one.path: one.places for one in chunks.after({}, worth)}
    assert first["one.first_channels"] == (0, 1)
    left = {one.path: one.places for one in chunks.after({"one.first_channels": [0, 1, 2, 3, 4]}, worth)}
    assert "one.first_channels" not in left  # one would be left
    assert left["two.first_channels"] == (0, 1, 2, 3)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"chunk of Plan is a share .* got 0.7"):
        fxprune.Plan(chunk=0.7)
    with pytest.raises(fxprune.FxpruneError, match="window of Plan is a number above 0; got -3"):
        fxprune.Plan(window=-3.0)
    with pytest.raises(fxprune.FxpruneError, match="multiple_of of Plan is 1 at least; got 0"):
        fxprune.Plan(multiple_of=0)
