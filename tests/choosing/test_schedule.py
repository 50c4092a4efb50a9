"""When gates close: the formula, step by step."""

from __future__ import annotations

import pytest

from fxprune.choosing.schedule import Schedule


def test_gates_fall_by_the_formula() -> None:
    schedule = Schedule(100, 1.5, [0.25] * 4)
    assert schedule.wants_another(1)
    schedule.shares = [0.5, 0.25]
    end = 1 + 0.5 * 0.25
    assert schedule.gate(0, 10) == pytest.approx(1 - 10 * end / 100 / (1.5 * 0.5))
    assert schedule.gate(1, 60) == pytest.approx(1 - (60 * end / 100 - 0.5) / (1.5 * 0.25))
    assert schedule.gate(0, 99) == 0.0
    assert not schedule.wants_another(60)
    assert schedule.wants_another(67)


def test_at_the_end_all_are_closed_and_all_that_it_takes_are_chosen() -> None:
    schedule = Schedule(10, 1.5, [1.0])
    schedule.shares = [5.0]
    assert schedule.gate(0, 9) > 0
    assert schedule.gate(0, 10) == 0.0
    assert schedule.wants_another(10)


def test_a_share_of_nothing_takes_a_step() -> None:
    schedule = Schedule(10, 1.5, [0.5])
    schedule.shares = [0.0]
    assert schedule.gate(0, 1) == 0.0
