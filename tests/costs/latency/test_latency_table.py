"""Times between those that were measured, and of whole networks."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from latency_helpers import CONDITIONS, FakeDevice, small_graph
from torch import nn

import fxprune
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.fit import Fit, FitError
from fxprune.costs.latency.latency_table import Family, LatencyTable
from fxprune.costs.latency.measuring import Measuring
from fxprune.costs.latency.network_ops import ops_of, ops_of_all
from fxprune.costs.latency.stairs import Stairs
from fxprune.costs.latency.timing import Timing
from fxprune.errors import FxpruneError


@functools.cache
def measured(step: int = 1) -> LatencyTable:
    table = LatencyTable(CONDITIONS)
    assert Measuring(CONDITIONS, FakeDevice(step).instrument, table.families).measure(ops_of(small_graph(), 1)) == []
    return table


@pytest.mark.parametrize("step", [1, 8, 16])
def test_interpolation_stairs_and_steps(step: int) -> None:
    device = FakeDevice(step)
    table = measured(step)
    for op in table.timed_ops(small_graph()):
        if op.workload.fused or len(op.axes) != 2 or "linear" in op.workload.family:
            continue
        assert [table.step(op, place) for place in (0, 1)] == [step, step]
        for widths in ((16, 16), (21, 30), (3, 17), (32, 9)):
            expected = device(*op.workload.make(widths, CONDITIONS))
            assert table.op_time(op, widths) == pytest.approx(expected, rel=0.02), (op.workload.family, widths)


def test_ways_without_steps_are_measured_apart() -> None:
    device, families = FakeDevice(16, other=1.7), dict[str, Family]()
    ops = [one for one in ops_of(small_graph(), 1) if one.node.name in ("stem", "wide", "same")]
    assert Measuring(CONDITIONS, device.instrument, families).measure(ops) == []
    table = LatencyTable(CONDITIONS, families)
    for op in ops:
        read = op.workload.widths[0]
        for widths in ((read, 32), (read, 17), *(((32, 9), (30, 30), (21, 16), (13, 32)) if read > 3 else ())):
            expected = device(*op.workload.make(widths, CONDITIONS))
            assert table.op_time(op, widths) == pytest.approx(expected, rel=0.02), (op.workload.family, widths)


def test_a_narrow_layer_of_a_wide_family_goes_by_its_steps() -> None:
    family = Family((Stairs(4, 16, 16),), {("stepped",): ((16, 128),)})
    family.points |= {(16,): Timing(1.0, 0.0, 4), (128,): Timing(8.0, 0.0, 4)}
    assert family.time((8,)) == pytest.approx(0.5)


def test_nothing_is_left_at_width_zero() -> None:
    table = measured()
    for op in table.timed_ops(small_graph()):
        assert table.op_time(op, [0] * len(op.axes)) == 0
        assert table.op_time(op, op.workload.widths) > 0
        assert table.op_time(op, [0.5] * len(op.axes)) > 0


def test_a_network_is_the_sum_of_its_ops() -> None:
    table = measured(8).with_fit(Fit(0.5, 2.0, 0.1), None)
    graph = small_graph()
    ops = table.timed_ops(graph)
    alone = sum(table.op_time(one, one.workload.widths) for one in ops)
    assert table.milliseconds(graph) == pytest.approx(0.5 + 2 * alone + 0.1 * len(ops))
    assert table.total(alone, len(ops)) == pytest.approx(table.milliseconds(graph))


def test_what_backends_join_counts_by_its_factor() -> None:
    table = measured()
    relu, conv = (
        next(one for one in table.timed_ops(small_graph()) if name in one.node.name) for name in ("relu", "wide")
    )
    halved = table.with_fit(Fit(f=0.5), None)
    assert halved.op_time(relu, (32,)) == pytest.approx(0.5 * table.op_time(relu, (32,)))
    assert halved.op_time(conv, (32, 48)) == table.op_time(conv, (32, 48))


def test_json_and_back() -> None:
    table = measured(8).with_fit(Fit(0.5, 2.0), FitError(0.01, 0.05, 0.99, 0.02))
    again = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
    assert again.milliseconds(small_graph()) == table.milliseconds(small_graph())
    assert (again.conditions, again.error, again.fit) == (table.conditions, table.error, table.fit)


def test_times_in_proportion_where_nothing_else_is_known() -> None:
    family = Family(points={(32, 64): Timing(2.0, 0.0, 4)})
    assert family.time((16, 64)) == pytest.approx(1.0)
    assert Family().time((16, 64)) is None


def test_an_op_that_was_not_measured_is_named() -> None:
    with pytest.raises(FxpruneError, match="stem: no op like it was measured"):
        LatencyTable(CONDITIONS).milliseconds(small_graph())


class Inner(nn.Module):
    """What cannot be traced, with a conv that can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ask for a value, and convolve."""
        found: torch.Tensor = self.conv(x + 1 if float(x.sum()) > 1e9 else x)
        return found


class Outer(nn.Module):
    """What cannot be traced, with a part that can, and has another in it that cannot; called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.last = nn.Sequential(nn.Conv2d(8, 8, 1), Inner()), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the part three times, as only a value tells."""
        for _ in range(int(3 + float(x.sum() > 1e9))):
            x = self.part(x)
        found: torch.Tensor = self.last(x)
        return found


class Twice(nn.Module):
    """The same opaque module twice, once in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = Outer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call it."""
        found: torch.Tensor = self.outer(x + self.outer(x))
        return found


def test_what_runs_inside_counts_once_however_deep_and_often() -> None:
    graph = fxprune.trace(Twice().eval(), torch.randn(2, 8, 6, 6))
    ops = ops_of_all(graph, 2)
    times = {"Outer": 100.0, "Inner": 9.0, "conv2d": 2.0}  # the outer one calls the others thrice
    table = LatencyTable(Conditions(batch=2))
    for op in ops:
        family = op.workload.family
        milliseconds = next((time for name, time in times.items() if family.startswith(name)), 1.0)
        points = {op.workload.widths: Timing(milliseconds, 0.0, 1)}
        table.families[family] = Family(points=points)
    alone = {name: [table.op_time(op, op.workload.widths) for op in ops if op.workload.family.startswith(name)]
             for name in times}  # fmt: skip
    assert alone["Inner"] == [6 * (9 - 2)]
    assert sum(alone["conv2d"]) == 2 * 6 * 2
    assert len(alone["Outer"]) == 2
    assert table.of_ops(ops) == pytest.approx(2 * 100 + 1)  # and the sum in front of the second
