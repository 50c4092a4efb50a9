"""What is measured in which order, kept, and said when the time is over."""

from __future__ import annotations

import time

import pytest
from latency_helpers import CONDITIONS, FakeDevice, small_graph

from fxprune.costs.latency.latency_table import Family
from fxprune.costs.latency.measuring import Measuring
from fxprune.costs.latency.network_ops import ops_of
from fxprune.errors import FxpruneError


def test_what_is_known_is_not_measured_again() -> None:
    device, families = FakeDevice(), dict[str, Family]()
    ops = ops_of(small_graph(), 1)
    Measuring(CONDITIONS, device.instrument, families).measure(ops)
    asked = device.calls
    Measuring(CONDITIONS, device.instrument, families).measure(ops)
    assert device.calls == asked


def test_a_kill_costs_only_what_was_not_kept() -> None:
    class Killed(Exception):
        pass

    families: dict[str, Family] = {}
    kept: list[int] = []

    def keep() -> None:
        kept.append(sum(len(one.points) for one in families.values()))
        if len(kept) == 2:
            raise Killed

    device, ops = FakeDevice(), ops_of(small_graph(), 1)
    with pytest.raises(Killed):
        Measuring(CONDITIONS, device.instrument, families, keep=keep).measure(ops)
    before, asked = kept[-1], device.calls
    assert before > 0
    assert Measuring(CONDITIONS, device.instrument, families).measure(ops) == []
    fresh = FakeDevice()
    Measuring(CONDITIONS, fresh.instrument, {}).measure(ops)
    assert device.calls - asked < fresh.calls


def test_too_little_time_for_every_op_once() -> None:
    with pytest.raises(FxpruneError, match=r"not all of 11 ops could be timed once.*give more seconds"):
        Measuring(CONDITIONS, FakeDevice().instrument, {}, time.monotonic() - 1).measure(ops_of(small_graph(), 1))


def test_what_there_was_no_time_for_is_named_and_stands_in_proportion() -> None:
    families: dict[str, Family] = {}
    ops = ops_of(small_graph(), 1)
    measuring = Measuring(CONDITIONS, FakeDevice().instrument, families)
    assert measuring.exact(ops)
    late = Measuring(CONDITIONS, FakeDevice().instrument, families, time.monotonic() - 1)
    missing = late.measure(ops)
    assert any("conv2d" in one and "in proportion" in one for one in missing)
    wide = next(one for one in ops if one.node.name == "wide").workload
    full = families[wide.family].points[wide.widths].milliseconds
    assert families[wide.family].time((16, 48)) == pytest.approx(full / 2)


def test_what_is_held_side_by_side_counts_its_weights_and_results() -> None:
    """A conv of 32 to 48 channels with a bias: 6,336 bytes of weights, 12,288 that it makes, 8,192 that it reads."""
    device, ops = FakeDevice(), ops_of(small_graph(), 1)
    wide = next(one for one in ops if one.node.name == "wide").workload
    for instrument, size in ((device.instrument, 26_816), (device.instrument._replace(copies=lambda *_: 8), 157_184)):
        _, held = Measuring(CONDITIONS, instrument, {})._prepared_one(wide, wide.widths)
        assert held == size


def test_progress_is_told() -> None:
    told: list[str] = []
    Measuring(CONDITIONS, FakeDevice().instrument, {}, tell=lambda share, doing: told.append(doing)).measure(
        ops_of(small_graph(), 1)
    )
    assert list(dict.fromkeys(told)) == ["ops as they are", "staircases", "between widths"]
