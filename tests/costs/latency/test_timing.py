"""Timers in turns: medians, what is called how often, and when it stops."""

from __future__ import annotations

import time

from fxprune.costs.latency.timing import Timing, Turns, in_turns


def test_the_median_and_the_spread() -> None:
    found = Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == Timing(3.0, 2 / 3, 5)


def test_timers_are_called_in_turns_and_the_first_call_does_not_count() -> None:
    order: list[str] = []
    values = {"a": iter([9.0, 1.0, 1.0] * 2), "b": iter([9.0, 2.0, 2.0] * 2)}

    def timer(name: str) -> float:
        order.append(name)
        return next(values[name])

    found = in_turns([lambda: timer("a"), lambda: timer("b")], Turns(2, 2))
    assert "".join(order) == "aaabbbaaabbb"
    assert found == [Timing(1.0, 0.0, 4), Timing(2.0, 0.0, 4)]


def test_what_is_noisy_is_measured_again_alone() -> None:
    noisy = iter(range(1, 100))
    found = in_turns([lambda: 1.0, lambda: float(next(noisy))], Turns(2, 5, warm=False))
    assert [one.repeats for one in found] == [2, 5]


def test_each_is_called_once_when_the_time_is_over() -> None:
    found = in_turns([lambda: 1.0, lambda: 2.0], Turns(3, 5, warm=False), time.monotonic() - 1)
    assert [one.repeats for one in found] == [1, 1]
