"""Staircases out of sweeps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from fxprune.costs.latency.stairs import SWEEP, Stairs, stairs_of

_LAWS: dict[Stairs, Callable[[int], float]] = {
    Stairs(): lambda width: 1 + 0.1 * width,
    Stairs(1, 16): lambda width: 1 + 0.1 * math.ceil(width / 16) * 16,
    Stairs(1, 8): lambda width: 1 + 0.1 * math.ceil(width / 8) * 8,
    Stairs(4, 16, 1.5): lambda width: (
        1 + 0.1 * math.ceil(width / 16) * 16 if width % 4 == 0 else 1.5 * (1 + 0.1 * width)
    ),
}


@pytest.mark.parametrize("expected", _LAWS)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_law_is_found(expected: Stairs, noise: float) -> None:
    draw = random.Random(0)
    sweeps = [{at: _LAWS[expected](at) * (1 + draw.uniform(0, noise)) for at in SWEEP} for _ in range(2)]
    found = stairs_of(sweeps)
    assert found[:2] == expected[:2]
    assert found.slower == pytest.approx(expected.slower, rel=0.05)


def test_what_is_read_for_a_width() -> None:
    stairs = Stairs(4, 16, 1.5)
    assert stairs.read_as(20) == (32, 1.0)
    assert stairs.read_as(32.0) == (32, 1.0)
    assert stairs.read_as(21) == (21, 1.5)
    assert Stairs().read_as(21.5) == (21.5, 1.0)
