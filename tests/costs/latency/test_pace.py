"""How fast the machine is: what was timed while it was slow is left out, or measured again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.pace import Pace, pace_of
from fxprune.costs.latency.timing import Turns, in_turns


class Machine:
    """It is twice as slow in the steps that are named; a step is a call of the fixed work."""

    def __init__(self, slow: range) -> None:
        self.slow, self.step = slow, 0

    def factor(self) -> float:
        return 2.0 if self.step in self.slow else 1.0

    def work(self) -> float:
        self.step += 1
        return self.factor()


def test_the_best_is_kept_and_slow_is_far_above_it() -> None:
    times: Iterator[float] = iter([3.0, 2.0, 4.0, 2.5, 2.6, 2.7])
    pace = Pace(lambda: next(times))
    assert not pace.is_slow(100.0)
    assert pace.now() == 2.0
    assert pace.now() == 2.5
    assert pace.best == 2.0
    assert pace.is_slow(2.5)
    assert not pace.is_slow(2.1)
    assert not pace.is_slow(0.0)


def test_waiting_ends_when_the_machine_is_fast_or_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.costs.latency.pace.time.sleep", lambda _: None)
    machine = Machine(range(10, 40))
    pace = Pace(machine.work, best=1.0)
    machine.step = 10
    pace.wait()
    assert machine.step >= 40
    always = Pace(Machine(range(10**9)).work, best=1.0, patience=0.0)
    always.wait()


def test_repeats_of_a_slow_machine_are_left_out() -> None:
    machine = Machine(range(7, 13))
    pace = Pace(machine.work, best=1.0, patience=0.0)
    (found,) = in_turns([lambda: 5 * machine.factor()], Turns(4, 12, warm=False), pace=pace)
    assert found.milliseconds == 5.0
    assert found.spread == 0
    assert found.pace == 1.0


def test_a_machine_that_is_always_slow_is_told_by_the_pace() -> None:
    machine = Machine(range(10**9))
    (found,) = in_turns([lambda: 5 * machine.factor()], Turns(2, 3), pace=Pace(machine.work, best=1.0, patience=0.0))
    assert found.milliseconds == 10.0
    assert found.pace == 2.0


def test_the_real_thing() -> None:
    pace = pace_of(Conditions(threads=torch.get_num_threads()))
    assert pace is not None
    assert 0 < pace.now() < math.inf
    assert pace_of(Conditions(device="cuda")) is None
