"""The model of a network's latency, on a device of closed formula."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, state_of
from latency_helpers import FakeDevice, small_graph
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.costs.latency.backends import instrument
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.pace import Pace
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError, FxpruneWarning
from fxprune.passes import RemoveChannels
from fxprune.pruning import latency_run
from fxprune.pruning.latency_model import LatencyModel


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    return LatencyModel.measure(small_graph(), measure=FakeDevice(8, overhead=0.1), cache=False)


def test_the_fit_is_that_of_the_device(model: LatencyModel) -> None:
    error = model.table.error
    assert error is not None
    assert error.median < 0.02
    assert error.worst < 0.06
    assert error.rank_correlation > 0.97
    assert error.spread == 0
    assert model.table.fit.b == pytest.approx(1, abs=0.1)
    assert model.table.conditions.backend == "measure"
    assert model.table.missing == ()


def test_prunings_are_predicted_and_measured(model: LatencyModel) -> None:
    graph = small_graph()
    pruned = RemoveChannels(ratio=0.4)(graph).graph_module
    for one in (graph, pruned):
        measured = model.measured(one)
        assert model.milliseconds(one) == pytest.approx(measured.milliseconds, rel=0.06)
        assert measured.spread == 0
    assert model.milliseconds(pruned) < model.milliseconds(graph)


def test_a_gated_graph_takes_what_the_plain_one_does(model: LatencyModel) -> None:
    gated = fxprune.insert_scales(small_graph(), what="all", verify=False).graph_module
    assert model.milliseconds(gated) == model.milliseconds(small_graph())
    assert model.measured(gated).milliseconds == pytest.approx(model.measured(small_graph()).milliseconds)


def test_a_correction_moves_the_prediction(model: LatencyModel) -> None:
    graph = small_graph()
    predicted = model.milliseconds(graph)
    corrected = model.corrected(predicted, 1.1 * predicted)
    assert corrected.milliseconds(graph) == pytest.approx(1.1 * predicted)
    assert model.milliseconds(graph) == predicted
    with pytest.raises(FxpruneValueError, match="measured is in milliseconds"):
        model.corrected(1.0, 0.0)


def test_a_model_goes_through_a_file_and_measures_on(model: LatencyModel) -> None:
    graph = small_graph()
    other = pickle.loads(pickle.dumps(model))
    assert other.milliseconds(graph) == model.milliseconds(graph)
    assert other.measured(graph) == model.measured(graph)


def test_a_timer_that_cannot_be_pickled_stays_in_its_process() -> None:
    graph, device = small_graph(), FakeDevice()
    own = LatencyModel.measure(graph, measure=lambda *given: device(*given), backend="phone", cache=False)
    assert copy.deepcopy(own).measured(graph) == own.measured(graph)
    other = pickle.loads(pickle.dumps(own))
    assert other.milliseconds(graph) == own.milliseconds(graph)
    with pytest.raises(FxpruneError, match="phone is a timer of your own that did not come along"):
        other.measured(graph)


class OneWidth(nn.Module):
    """Ops that fit no other number of channels: a PReLU, a reshape to so many columns, a norm of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.slope = nn.BatchNorm1d(3), nn.Conv1d(3, 16, 3), nn.Parameter(torch.rand(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.prelu(self.first(self.norm(x)), self.slope)
        found: torch.Tensor = self.head(y.permute(0, 2, 1).reshape(-1, 16))
        return found


def test_what_runs_at_no_other_width_takes_what_it_takes() -> None:
    graph = fxprune.trace(OneWidth().eval(), torch.randn(2, 3, 16))
    model = LatencyModel.measure(graph, measure=FakeDevice(), cache=False)
    assert model.milliseconds(graph) == pytest.approx(model.measured(graph).milliseconds, rel=0.05)


def test_training_may_lay_weights_out_in_another_way(model: LatencyModel) -> None:
    graph = small_graph()
    moved = small_graph().to(memory_format=torch.channels_last)
    assert model.milliseconds(moved) == model.milliseconds(graph)
    assert {one.node.graph for one in model.table.timed_ops(moved)} == {moved.graph}


def test_the_users_network_and_process_stay_as_they_are() -> None:
    graph = fxprune.trace(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), torch.randn(2, 3, 8, 8)
    )
    graph.train()
    state, flags, code = state_of(graph), [one.training for one in graph.modules()], graph.code
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    LatencyModel.measure(graph, measure=FakeDevice(), threads=threads + 1, dtype="bfloat16", cache=False)
    assert_state_equal(graph, state)
    assert [one.training for one in graph.modules()] == flags
    assert graph.code == code
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(one.dtype == torch.float32 for one in graph.parameters())


def test_from_the_cache_nothing_is_measured(tmp_path: Path) -> None:
    device = FakeDevice()
    first = LatencyModel.measure(small_graph(), measure=device, cache=tmp_path)
    asked = device.calls
    again = LatencyModel.measure(small_graph(), measure=device, cache=tmp_path)
    assert device.calls == asked
    assert again.milliseconds(small_graph()) == first.milliseconds(small_graph())
    assert again.table.error == first.table.error


def test_what_was_timed_while_the_machine_was_off_is_told_at_its_usual_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = LatencyModel.measure(small_graph(), measure=FakeDevice(), cache=False)
    pace, device, calls = Pace(lambda: 1.5, patience=0.0), FakeDevice(), []
    monkeypatch.setattr(Pace, "usual", 1.0)  # the fixed work takes half as long again as it usually does
    monkeypatch.setattr(latency_run, "instrument", lambda *given: instrument(*given)._replace(pace=pace))
    for _ in range(2):
        found = LatencyModel.measure(small_graph(), measure=device, cache=tmp_path)
        calls.append(device.calls)
    assert found.milliseconds(small_graph()) == pytest.approx(usual.milliseconds(small_graph()) / 1.5)
    assert calls[0] == calls[1]


def test_a_layer_that_was_never_seen_is_measured_when_it_is_asked_for(model: LatencyModel) -> None:
    other = fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 5), nn.Hardswish()).eval(), torch.randn(1, 3, 16, 16))
    assert model.milliseconds(other) == pytest.approx(model.measured(other).milliseconds, abs=0.2)


def test_a_network_of_which_nothing_can_go() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(1, 4))
    found = LatencyModel.measure(graph, measure=FakeDevice(), cache=False)
    assert found.milliseconds(graph) == pytest.approx(found.measured(graph).milliseconds)


def test_a_noisy_machine_is_told_with_the_spread() -> None:
    draw = torch.Generator().manual_seed(0)

    def noisy(graph_module: Any, inputs: Any) -> float:
        return 1 + 5 * float(torch.rand((), generator=draw))

    with pytest.warns(FxpruneWarning, match="too noisy for latencies: repeats of a network are .*% apart"):
        LatencyModel.measure(small_graph(), measure=noisy, cache=False)


def test_too_few_seconds_are_told() -> None:
    with pytest.raises(FxpruneError, match="give more seconds"):
        LatencyModel.measure(small_graph(), measure=FakeDevice(), seconds=1e-9, cache=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"backend": "tensorrt"}, "unknown backend 'tensorrt'"),
        ({"batch": 0}, "batch is at least 1"),
        ({"seconds": -1.0}, "seconds is a finite number above 0"),
        ({"dtype": "fp16"}, "dtype is one of torch's"),
        ({"device": "toaster"}, "toaster cannot compute"),
    ],
)
def test_values_that_make_no_sense(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(FxpruneError, match=told):
        LatencyModel.measure(small_graph(), cache=False, **wrong)


def test_a_timer_of_the_users_has_a_name_of_its_own() -> None:
    with pytest.raises(FxpruneValueError, match="measure= is a timer of your own, and onnxruntime is ours"):
        LatencyModel.measure(small_graph(), backend="onnxruntime", measure=FakeDevice())


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(FxpruneTypeError, match=r"LatencyModel\.measure takes a graph, got Linear"):
        LatencyModel.measure(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(FxpruneTypeError, match=r"LatencyModel\.measure takes a whole number or None for batch"):
        LatencyModel.measure(small_graph(), batch="one")  # type: ignore[arg-type]


def test_conditions_are_given_as_one_value_or_by_name(model: LatencyModel) -> None:
    given = Conditions("phone", batch=2, threads=3)
    found = LatencyModel.measure(small_graph(), given, measure=FakeDevice(8, overhead=0.1), cache=False)
    assert found.table.conditions == given
    named = LatencyModel.measure(
        small_graph(), backend="phone", batch=2, threads=3, measure=FakeDevice(), cache=False
    )
    assert named.table.conditions == given
    with pytest.raises(FxpruneTypeError, match="conditions says how the network runs: leave out batch"):
        LatencyModel.measure(small_graph(), given, batch=4)
    with pytest.raises(FxpruneTypeError, match=r"LatencyModel\.measure takes no bacth; did you mean 'batch'"):
        LatencyModel.measure(small_graph(), bacth=4)  # type: ignore[call-arg]


def test_the_real_thing_on_a_tiny_network() -> None:
    graph = fxprune.trace(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), torch.randn(1, 3, 8, 8)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FxpruneWarning)  # of a noisy machine
        model = LatencyModel.measure(graph, seconds=60, threads=1, cache=False)
    assert model.milliseconds(graph) > 0
    assert model.measured(graph).milliseconds > 0
