"""How fast the machine is: what was timed while it was not as usual is left out, or measured again."""

from __future__ import annotations

import math

import pytest
import torch

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.pace import Pace, pace_of
from fxprune.costs.latency.timing import Turns, in_turns


class Machine:
    """It is ``factor`` times as slow in some steps; a step is a run of the fixed work."""

    def __init__(self, off: range, factor: float = 2.0) -> None:
        self.off, self.step, self._factor = off, 0, factor

    def factor(self) -> float:
        return self._factor if self.step in self.off else 1.0

    def work(self) -> float:
        self.step += 1
        return self.factor()


def pace_on(machine: Machine, patience: float = 0.0) -> Pace:
    pace = Pace(machine.work, patience)
    pace.note(1.0)
    return pace


def test_usual_is_the_median_and_off_is_far_from_it_on_either_side() -> None:
    pace = Pace(Machine(range(0)).work)
    assert pace.usual == 0
    assert not pace.is_off(100.0)
    pace.note(2.0)
    assert pace.now() == 1.0
    assert pace.usual == 2.0
    assert pace.is_off(2.5)
    assert pace.is_off(1.5)
    assert not pace.is_off(2.2)
    assert not pace.is_off(0.0)


def test_waiting_ends_when_the_machine_is_as_usual_or_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxprune.costs.latency.pace.time.sleep", lambda _: None)
    machine = Machine(range(40))
    pace_on(machine, patience=20.0).wait()
    assert machine.step >= 40
    pace_on(Machine(range(10**9))).wait()


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_repeats_of_another_pace_are_left_out(factor: float) -> None:
    machine = Machine(range(7, 13), factor)
    (found,) = in_turns([lambda: 5 * machine.factor()], Turns(4, 12, warm=False), pace=pace_on(machine))
    assert found.milliseconds == 5.0
    assert found.spread == 0
    assert found.pace == 1.0


def test_a_machine_that_is_never_as_usual_is_told_by_the_pace() -> None:
    machine = Machine(range(10**9))
    (found,) = in_turns([lambda: 5 * machine.factor()], Turns(2, 3), pace=pace_on(machine))
    assert found.milliseconds == 10.0
    assert found.pace == 2.0


def test_the_real_thing() -> None:
    pace = pace_of(Conditions(threads=torch.get_num_threads()))
    assert pace is not None
    assert 0 < pace.now() < math.inf
    assert pace_of(Conditions(device="cuda")) is None
