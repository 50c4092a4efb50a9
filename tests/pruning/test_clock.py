"""Targets in time while a network trains: what is chosen, when the clock is asked, what is gone on from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from channel_training import gated
from fake_latency import FakeLatency, FakeTable, plain
from together import of_two_processes
from torch import fx

import fxprune
from fxprune import SteeredL1, Targets
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.errors import FxpruneError, FxpruneWarning, TargetError
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.gated_layers import gates_of
from fxprune.training.cifar_resnet import CifarResNet

STEPS = 12


def resnet(what: str) -> fx.GraphModule:
    torch.manual_seed(0)
    traced = fxprune.trace(CifarResNet(20).eval(), torch.randn(2, 3, 8, 8))
    return insert_scales(traced, what=what, verify=False).graph_module


def trained(shrink: SteeredL1, steps: int = STEPS) -> SteeredL1:
    for _ in range(steps):
        shrink.step(0.1)
    return shrink


@pytest.mark.parametrize("what", ["branches", "channels", "branches,channels"])
@pytest.mark.parametrize("off", [0.85, 1.0, 1.15])
def test_the_network_is_as_fast_as_asked_by_the_clock(what: str, off: float) -> None:
    graph, latency = resnet(what), FakeLatency(off=off, stairs=2)
    whole = latency.off * latency.milliseconds(plain(graph))
    shrink = trained(SteeredL1(graph, targets=Targets(milliseconds=0.7 * whole), meet_after=STEPS, latency=latency))
    assert shrink.is_met
    measured = latency.measured(plain(graph)).milliseconds
    assert measured <= 0.7 * whole * 1.0001
    assert measured >= 0.6 * whole
    assert 1 <= len(shrink.clock.points) <= 5
    assert shrink.clock.points[-1][1] == pytest.approx(measured)


@pytest.mark.parametrize("what", ["branches", "channels"])
def test_a_time_is_met_across_cuts(what: str) -> None:
    graph, latency = resnet(what), FakeLatency(off=1.1, stairs=2)
    limit = 0.7 * latency.off * latency.milliseconds(plain(graph))
    shrink = SteeredL1(graph, targets=Targets(milliseconds=limit), meet_after=STEPS, latency=latency)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    for _ in range(3):
        trained(shrink, STEPS // 3)
        graph, optimizer = shrink.cut(optimizer)
    assert shrink.is_met
    assert 0.6 / 0.7 * limit <= latency.measured(plain(graph)).milliseconds <= 1.0001 * limit
    assert shrink.saved_by


def test_a_share_is_of_what_is_measured() -> None:
    graph, latency = resnet("branches"), FakeLatency(off=1.15)
    shrink = SteeredL1(graph, targets=Targets(latency=0.5), meet_after=STEPS, latency=latency)
    whole = 1.15 * latency.milliseconds(plain(graph))
    assert shrink.clock.targets.milliseconds == pytest.approx(0.5 * whole)
    assert shrink.clock.targets.latency is None
    assert shrink.targets == Targets(latency=0.5)
    trained(shrink)
    assert latency.measured(plain(graph)).milliseconds <= 0.5 * whole * 1.0001


def test_the_pace_of_the_machine_makes_no_network_slower() -> None:
    pace = (1.0, 1.3, 0.8, 1.25, 0.9, 1.2)
    orders = []
    for slow in ((), pace):
        graph, latency = resnet("branches"), FakeLatency(off=1.15, pace=slow)
        shrink = trained(SteeredL1(graph, targets=Targets(latency=0.6), meet_after=STEPS, latency=latency))
        whole = 1.15 * latency.milliseconds(plain(resnet("branches")))
        assert 1.15 * latency.milliseconds(plain(graph)) <= 0.6 * whole * 1.0001
        orders.append((shrink.order, [pytest.approx(one[1]) for one in shrink.clock.points]))
    assert orders[0] == orders[1]


def test_what_the_prediction_meets_at_once_is_timed_first() -> None:
    graph, latency = resnet("branches"), FakeLatency(off=1.4)
    limit = 1.1 * latency.milliseconds(plain(graph))
    shrink = SteeredL1(graph, targets=Targets(milliseconds=limit), meet_after=STEPS, latency=latency)
    assert [one[1] for one in shrink.clock.points] == [pytest.approx(1.4 / 1.1 * limit)]
    assert not shrink.is_met
    trained(shrink)
    assert shrink.is_met
    assert latency.measured(plain(graph)).milliseconds <= limit * 1.0001


def test_what_is_to_be_saved_follows_a_correction() -> None:
    graph, latency = resnet("branches"), FakeLatency(off=1.4)
    whole = latency.milliseconds(plain(graph))
    shrink = SteeredL1(graph, targets=Targets(milliseconds=1.1 * whole), meet_after=STEPS, latency=latency)
    time = shrink._next.surplus.time
    assert time is not None
    assert time.surplus == pytest.approx(0.3 * whole)


def impossible() -> tuple[fx.GraphModule, FakeLatency, float]:
    """Return a network, and milliseconds that predictions can meet, but not a clock that is slower."""
    everything = resnet("branches")
    for gate in gates_of(everything):
        gate.module.close()
    return resnet("branches"), FakeLatency(off=1.1), 1.05 * FakeLatency().milliseconds(plain(everything))


def test_a_training_goes_on_where_the_clock_says_that_a_time_cannot_be_met() -> None:
    graph, latency, limit = impossible()
    shrink = SteeredL1(graph, targets=Targets(milliseconds=limit), meet_after=STEPS, latency=latency)
    with pytest.warns(FxpruneWarning, match=r"the targets cannot be met, at most .* ms: .*; the training goes on"):
        trained(shrink)
    assert shrink.is_settled
    assert not shrink.is_met
    again_graph, *_ = impossible()
    again = SteeredL1(
        again_graph, targets=Targets(milliseconds=limit), meet_after=STEPS, latency=FakeLatency(off=1.1)
    )
    again_graph.load_state_dict(graph.state_dict())
    again.load_state_dict(shrink.state_dict())
    for one in (again, copy.deepcopy(again)):
        assert one.is_settled  # what was said once is known
        assert not one.is_met
        trained(one, 1)
        assert one.order == shrink.order


@pytest.mark.parametrize("error", [FxpruneError("no route to phone"), RuntimeError("no route to phone\nat all")])
def test_a_clock_that_fails_on_the_way_costs_no_training(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    graph, latency = resnet("branches"), FakeLatency(off=1.1)
    shrink = SteeredL1(graph, targets=Targets(latency=0.6), meet_after=STEPS, latency=latency)

    def lost(self: FakeLatency, graph_modules: object) -> None:
        raise error

    monkeypatch.setattr(FakeLatency, "measured_in_turns", lost)
    with pytest.warns(FxpruneWarning, match=r"predictions of time go on uncorrected: no route to phone$"):
        trained(shrink)
    assert shrink.is_met
    assert len(shrink.clock.points) == 1


def test_time_and_parameters_are_both_met() -> None:
    graph, latency = resnet("branches"), FakeLatency()
    targets = Targets(latency=0.8, params=0.5)
    shrink = trained(SteeredL1(graph, targets=targets, meet_after=STEPS, latency=latency))
    assert shrink.params_left <= 0.5
    assert shrink.clock.points[-1][1] <= 0.8 * shrink.clock.points[0][1]


@pytest.mark.parametrize(("target", "off"), [("share", 1.15), ("milliseconds", 1.6)])
@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_run_that_was_stopped_goes_on_with_what_was_measured(stop: int, target: str, off: float) -> None:
    def made() -> tuple[fx.GraphModule, SteeredL1]:
        graph, latency = resnet("branches"), FakeLatency(off=off)
        whole = latency.milliseconds(plain(graph))
        targets = Targets(latency=0.5) if target == "share" else Targets(milliseconds=whole)  # met by the prediction
        return graph, SteeredL1(graph, targets=targets, meet_after=STEPS, latency=latency)

    _, through = made()
    trained(through)
    graph, first = made()
    trained(first, stop)
    again_graph, again = made()
    again_graph.load_state_dict(graph.state_dict())
    again.load_state_dict(first.state_dict())
    assert again.clock.points == first.clock.points
    trained(again, STEPS - stop)
    assert (again.order, again.clock.points) == (through.order, through.clock.points)
    copied = copy.deepcopy(first)
    assert copied.clock.points == first.clock.points
    trained(copied, STEPS - stop)
    assert copied.order == through.order


def test_a_copy_in_the_middle_is_timed_beside_the_unpruned_network() -> None:
    through = SteeredL1(
        resnet("branches"), targets=Targets(latency=0.5), meet_after=STEPS, latency=FakeLatency(off=1.15)
    )
    trained(through)
    latency = FakeLatency(off=1.15)
    first = SteeredL1(resnet("branches"), targets=Targets(latency=0.5), meet_after=STEPS, latency=latency)
    trained(first, 8)
    assert first.closed
    object.__setattr__(latency, "off", 1.6)  # the machine is slower now
    copied = copy.deepcopy(first)
    trained(copied, STEPS - 8)
    assert copied.order == through.order
    assert torch.tensor(copied.clock.points).allclose(torch.tensor(through.clock.points))


def test_a_timer_that_fails_at_once_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: FakeLatency, graph_modules: object) -> None:
        raise FxpruneError("no route to phone")

    graph = resnet("branches")
    monkeypatch.setattr(FakeLatency, "measured_in_turns", lost)
    with pytest.raises(FxpruneError, match=r"^no route to phone$"):
        SteeredL1(graph, targets=Targets(latency=0.6), meet_after=STEPS, latency=FakeLatency())
    assert not any(gate.module.closed for gate in gates_of(graph))


def test_a_table_alone_predicts() -> None:
    graph, latency = resnet("branches"), FakeLatency(off=1.15)
    table = FakeTable()
    shrink = trained(SteeredL1(graph, targets=Targets(latency=0.5), meet_after=STEPS, latency=table))
    assert shrink.clock.points == []
    assert latency.asked == []
    whole = latency.milliseconds(plain(resnet("branches")))
    assert latency.milliseconds(plain(graph)) <= 0.5 * whole


def test_a_target_in_time_needs_a_model() -> None:
    with pytest.raises(
        fxprune.FxpruneError, match=r"SteeredL1 needs a model of times for at most 4 ms: give latency="
    ):
        SteeredL1(gated("branches"), targets=Targets(milliseconds=4.0), meet_after=4)


def test_what_cannot_be_met_says_what_can() -> None:
    graph, latency = resnet("branches"), FakeLatency()
    with pytest.raises(TargetError, match=r"target_ms=0.1 cannot be met: without all that can go a .* ms"):
        SteeredL1(graph, targets=Targets(milliseconds=0.1), meet_after=4, latency=latency)
    for model in (FakeTable(), FakeLatency(off=1.2)):
        with pytest.raises(TargetError, match=r"target_latency=0.01 cannot be met: .* ask for at least 0\.\d+; or"):
            SteeredL1(graph, targets=Targets(latency=0.01), meet_after=4, latency=model)


def test_a_model_of_another_network_is_refused() -> None:
    other = LatencyTable(FakeTable().conditions)
    with pytest.raises(fxprune.FxpruneError, match=r"conv1: no op like it was measured; measure"):
        SteeredL1(resnet("branches"), targets=Targets(latency=0.5), meet_after=4, latency=other)


TOGETHER = """
import sys
import torch
from torch import distributed
sys.path.insert(0, {tests!r})
from channel_training import gated
from fake_latency import FakeLatency, FakeTable
import fxprune
from fxprune.costs.latency.fit import Fit

rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
table = FakeTable(8, fit=Fit(0.05, (1.2, 2.5)[rank], 0.003))  # each measured for itself
latency = FakeLatency(off=(1.15, 3.0)[rank], table=table)  # the second one's clock is not asked
graph = gated("branches,channels")
shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(latency=0.7), meet_after=8, latency=latency)
for _ in range(8):
    shrink.step(0.1)
torch.save((shrink.order, shrink.clock.points, shrink.is_met, len(latency.asked)), sys.argv[3])
distributed.destroy_process_group()
"""


def test_of_several_processes_the_first_measures(tmp_path: Path) -> None:
    first, second = of_two_processes(TOGETHER, tmp_path)
    assert first[:3] == second[:3]
    assert first[2]
    assert first[3] == len(first[1]) > 1  # each time in turns with the unpruned network
    assert second[3] == 0
