"""Uniform channel pruning as a job: two trainings from scratch, gone on with in each, and a network without gates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_latency import FakeLatency
from safetensors.torch import load_file
from torch import nn

from fxprune.choosing.targets import Targets
from fxprune.emission.emit import load_emitted
from fxprune.errors import FxpruneError, FxpruneValueError, LoadError, TargetError
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.render.run_page import run_page
from fxprune.run_record import read_run
from fxprune.run_results import results_text
from fxprune.tracing.trace import trace
from fxprune.training.data import ImageData
from fxprune.training.goal import Goal
from fxprune.training.job import Run
from fxprune.training.settings import Settings
from fxprune.training.ucp_job import ByAttention, prune_by_attention

QUICK = Settings(epochs=2, batch_size=256, device="cpu", lr=0.1)
HALF = Goal(Targets(macs=0.5), what="channels")


class Killed(Exception):
    """Stands for a kill."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 20, 3)]
    return nn.Sequential(
        *layers, nn.BatchNorm2d(20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10)
    )


def until(words: str) -> Callable[[str], None]:
    """Return what is killed when it is told a line with ``words``."""

    def say(line: str) -> None:
        if words in line:
            raise Killed(line)

    return say


def test_a_plain_network_of_found_widths_comes_out(data: ImageData, tmp_path: Path) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    said: list[str] = []
    settings = replace(QUICK, finetune_epochs=1, recalibrate=1, baseline=True, distill=0.3)
    report = prune_by_attention(
        model, data, tmp_path, settings, goal=replace(HALF, norms="keep"), run=Run(said.append)
    )
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert report["macs_after"] <= 0.5 * report["macs_before"]
    emitted = load_emitted(tmp_path)
    kinds = {type(one).__name__ for one in emitted.modules()}
    assert "BatchNorm2d" in kinds
    assert not any("attention" in name.lower() for name in (*kinds, *emitted.state_dict()))
    assert "ttention" not in (tmp_path / "model.py").read_text()
    widths = report["ucp"]["widths"]
    assert {path: after for path, (_, after) in widths.items()} == {
        path: emitted.get_submodule(path).out_channels for path in ("0", "3")
    }
    assert report["channels_removed"] == sum(before - after for before, after in widths.values())
    assert set(report) >= {"accuracy_with_attention", "accuracy_before_finetuning", "accuracy_baseline"}
    assert report["ucp"]["seconds"].keys() == {"with attention", "from scratch"}
    assert report["ucp"]["alpha"] > 0
    assert report["max_relative_difference"] < 1e-9
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.criterion == "channel-attention"
    cut = plan.apply(trace(network().eval(), torch.randn(2, 1, 8, 8))).graph_module
    assert [cut.get_submodule(path).out_channels for path in ("0", "3")] == [after for _, after in widths.values()]
    assert "channels are gone" in results_text(report)
    assert sum("from scratch" in line for line in said) == 2


def test_what_was_trained_before_is_not_gone_on_from(data: ImageData, tmp_path: Path) -> None:
    other = network()
    with torch.no_grad():
        for one in other.parameters():
            one.mul_(3)
    found = []
    for name, model in (("one", network()), ("other", other)):
        prune_by_attention(model, data, tmp_path / name, replace(QUICK, epochs=1), goal=HALF)
        found.append(load_file(tmp_path / name / "weights.safetensors"))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_same_call_goes_on_wherever_it_was_killed(data: ImageData, tmp_path: Path) -> None:
    settings = replace(QUICK, finetune_epochs=1)
    whole = prune_by_attention(network(), data, tmp_path / "whole", settings, goal=HALF)
    told: list[str] = []
    for words in (
        "epoch 1/2: loss",
        "trained with gates of attention",
        "alpha ",
        "epoch 1/2: loss",
        "epoch 1/1: loss",
    ):
        with pytest.raises(Killed) as killed:
            prune_by_attention(network(), data, tmp_path / "killed", settings, goal=HALF, run=Run(until(words)))
        told.append(str(killed.value))
    assert told[0] != told[3]  # of the first training, and of the second
    assert not (tmp_path / "killed" / "report.json").exists()
    said: list[str] = []
    report = prune_by_attention(network(), data, tmp_path / "killed", settings, goal=HALF, run=Run(said.append))
    assert report["ucp"]["widths"] == whole["ucp"]["widths"]
    assert report["accuracy_with_attention"] == whole["accuracy_with_attention"]
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not any("trained with gates" in line for line in said)


def test_a_share_of_the_time_is_told_in_milliseconds(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatencyModel, "measure", lambda graph_module, **how: FakeLatency(off=1.1))
    goal = Goal(Targets(latency=0.8), what="channels")
    for _ in range(2):  # the second time what was chosen is read back
        report = prune_by_attention(network(), data, tmp_path, replace(QUICK, epochs=1), goal=goal)
        told = report["latency"]
        assert told["target_ms"] == pytest.approx(0.8 * told["before_ms"])
        assert told["after_ms"] <= 1.02 * told["target_ms"]
        assert told["points"]


def test_alpha_stands_in_the_place_of_targets(data: ImageData, tmp_path: Path) -> None:
    goal = Goal(Targets(), what="channels")
    with pytest.raises(FxpruneValueError, match=r"alpha=5 keeps no channel of (0|3): one below"):
        prune_by_attention(network(), data, tmp_path, replace(QUICK, epochs=1), goal=goal, way=ByAttention(5.0))
    said: list[str] = []  # what was trained before is gone on from
    report = prune_by_attention(
        network(), data, tmp_path, replace(QUICK, epochs=1), goal=goal, way=ByAttention(0.9), run=Run(said.append)
    )
    assert any("resuming after epoch 1" in line for line in said)
    assert report["ucp"]["alpha"] == report["settings"]["alpha"] == 0.9
    assert report["settings"]["method"] == "ucp"


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"goal": Goal(Targets(macs=0.5))}, FxpruneValueError, "give Goal"),
        ({"goal": Goal(Targets(), what="channels")}, FxpruneValueError, "give targets, or alpha"),
        ({"way": ByAttention(0.9)}, FxpruneValueError, "exclude one another"),
        ({"settings": replace(QUICK, distill_features=1.0)}, FxpruneValueError, "whose widths differ here"),
        (
            {"goal": Goal(Targets(macs=0.001), what="channels")},
            TargetError,
            "layers can go too: fxprune prune --what all",
        ),
        ({"goal": replace(HALF, keep=["0", "3"])}, FxpruneError, "kept by the user"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, FxpruneError, "it has no convs at all"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    changes: dict[str, Any], error: type[Exception], told: str, data: ImageData, tmp_path: Path
) -> None:
    model, settings = changes.pop("model", None) or network(), changes.pop("settings", QUICK)
    said: list[str] = []
    with pytest.raises(error, match=told) as caught:
        prune_by_attention(model, data, tmp_path, settings, **{"goal": HALF, "run": Run(said.append), **changes})
    assert "\n" not in str(caught.value)
    assert said == []
    assert not list(tmp_path.glob("*.pt"))


def test_weights_that_stay_are_told(data: ImageData, tmp_path: Path) -> None:
    model = network()
    model[0].requires_grad_(False)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        until("epoch")(line)

    with pytest.raises(Killed):
        prune_by_attention(
            model,
            data,
            tmp_path,
            QUICK,
            goal=HALF,
            run=Run(say),
        )
    assert any(line.startswith("not all weights are drawn anew: 0: is frozen") for line in said)


def test_widths_of_another_goal_are_not_taken(data: ImageData, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    with pytest.raises(Killed):
        prune_by_attention(network(), data, tmp_path, settings, goal=HALF, run=Run(until("alpha ")))
    other = Goal(Targets(macs=0.8), what="channels")
    with pytest.raises(LoadError, match=r"were chosen for target_macs 0\.5, not 0\.8; use the same") as caught:
        prune_by_attention(network(), data, tmp_path, settings, goal=other)
    assert "\n" not in str(caught.value)
    with pytest.raises(LoadError, match="were chosen for keep"):
        prune_by_attention(network(), data, tmp_path, settings, goal=replace(HALF, keep=["0"]))
    (tmp_path / "widths.json").write_text("{}")
    with pytest.raises(LoadError, match=r"widths\.json is damaged: remove it"):
        prune_by_attention(network(), data, tmp_path, settings, goal=HALF)


def test_weights_that_will_be_plain_are_told(data: ImageData, tmp_path: Path) -> None:
    model = network()
    model[0] = nn.utils.parametrizations.weight_norm(model[0])
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        until("plain ones")(line)

    with pytest.raises(Killed, match="weights are computed from others in 0: the network of the found widths has"):
        prune_by_attention(model, data, tmp_path, QUICK, goal=HALF, run=Run(say))
    assert any(line.startswith("not all weights are drawn anew: 0: its weight is computed") for line in said)


def test_a_run_is_read_back(data: ImageData, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    with pytest.raises(Killed):
        prune_by_attention(network(), data, tmp_path, settings, goal=HALF, run=Run(until("trained with gates")))
    assert len(read_run(tmp_path).to_json()["epochs"]) == 1  # of the training with gates
    report = prune_by_attention(network(), data, tmp_path, settings, goal=HALF)
    run = read_run(tmp_path)
    text = f"alpha {report['ucp']['alpha']:.4g}; held-out top-1 {report['accuracy_with_attention']:.2%} with gates"
    assert text in str(run)
    assert "scales were not recorded" not in str(run)
    pytest.importorskip("matplotlib")
    page = run_page(run)
    assert text in page
    assert "<td>20</td>" in page.replace(' class="number"', "")
