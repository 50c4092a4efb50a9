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
    Stairs(4, 16, 16): lambda width: (
        1 + 0.1 * math.ceil(width / 16) * 16 if width % 4 == 0 else 1.5 * (1 + 0.1 * width)
    ),
    Stairs(1, 1, 16): lambda width: (1 if width >= 16 else 2) * (1 + 0.1 * width),
    Stairs(1, 16, 16): lambda width: 1 + 0.1 * (math.ceil(width / 16) * 16 if width >= 16 else width),
}


@pytest.mark.parametrize("expected", _LAWS)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_law_is_found(expected: Stairs, noise: float) -> None:
    draw = random.Random(0)
    sweeps = [{at: _LAWS[expected](at) * (1 + draw.uniform(0, noise)) for at in SWEEP} for _ in range(2)]
    assert stairs_of(sweeps) == expected


def test_what_is_read_for_a_width() -> None:
    stairs = Stairs(4, 16, 16)
    assert [(stairs.way(one), stairs.read_as(one)) for one in (20, 32.0, 21, 12)] == [
        ("stepped", 32),
        ("stepped", 32),
        ("unaligned", 21),
        ("narrow", 12),
    ]
    assert (Stairs().way(21.5), Stairs().read_as(21.5)) == ("stepped", 21.5)
    assert (Stairs(1, 16).way(3), Stairs(1, 16).read_as(3)) == ("stepped", 16)
    assert (Stairs(1, 16, 16).way(3), Stairs(1, 16, 16).read_as(3)) == ("narrow", 3)


@pytest.mark.parametrize(
    ("stairs", "ways"),
    [
        (
            Stairs(4, 16, 16),
            [("narrow",), ("stepped", "narrow"), ("stepped", "unaligned", "narrow"), ("stepped", "unaligned")],
        ),
        (Stairs(1, 1, 16), [("narrow",), ("stepped", "narrow"), ("stepped", "narrow"), ("stepped",)]),
        (Stairs(1, 16), [("stepped",)] * 4),
    ],
)
def test_which_ways_widths_can_take(stairs: Stairs, ways: list[tuple[str, ...]]) -> None:
    assert [stairs.ways(widths) for widths in ([3, 4], [16], [64, 256], [65, 256])] == ways


def test_ways_that_differ_on_large_inputs_alone_are_two() -> None:
    law = _LAWS[Stairs(4, 16, 16)]
    large = {at: law(at) for at in SWEEP}
    small = {at: law(at) if at % 4 == 0 else 1.02 * (1 + 0.1 * math.ceil(at / 16) * 16) for at in SWEEP}
    assert stairs_of([large, small]) == Stairs(4, 16, 16)
    assert stairs_of([small, small]) == Stairs(1, 16)
