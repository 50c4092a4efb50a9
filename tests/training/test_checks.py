"""What a run says before it trains: advice on a strength that brings nothing to zero."""

from __future__ import annotations

import pytest

from fxprune.choosing.targets import Targets
from fxprune.training.checks import advice
from fxprune.training.goal import Goal
from fxprune.training.settings import Settings


@pytest.mark.parametrize(("strength", "advised"), [(1e-3, True), (10.0, False), (None, False)])
def test_a_strength_that_is_too_small_is_told_with_one_that_is_not(strength: float | None, advised: bool) -> None:
    settings = Settings(epochs=2, batch_size=10, lr=0.05)
    told = list(advice(settings, Goal(Targets(), strength), 1000))
    assert bool(told) == advised
    if advised:
        least = float(told[0].partition("give at least ")[2].partition(",")[0])
        assert not list(advice(settings, Goal(Targets(), least * 1.01), 1000))
