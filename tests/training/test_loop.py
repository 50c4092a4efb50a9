"""Training with layer scales: targets are met by zeros, closed layers are not computed, resuming changes nothing."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import quiet
from torch import fx, nn
from training_helpers import network, sparse_network

import fxprune
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, LoadError
from fxprune.passes import RemoveLayers
from fxprune.pruning.proximal import ProximalL1
from fxprune.run_record import read_rows
from fxprune.structures.gated_layers import layers
from fxprune.training.checkpoint import load_checkpoint, save_checkpoint
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import make_accelerator
from fxprune.training.evaluation import evaluate, recalibrate
from fxprune.training.goal import Goal
from fxprune.training.job import Run, prune_on_data
from fxprune.training.loop import Trainer
from fxprune.training.metrics import Metrics, epochs
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Settings

QUICK = Settings(epochs=2, lr=0.01, batch_size=64, shrink_share=0.5, device="cpu")


def same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_target_is_met_by_zeros_whose_removal_changes_nothing(data: ImageData, tmp_path: Path) -> None:
    sparse = sparse_network(data)
    before = total_macs(sparse)
    session = Session(metrics=tmp_path / "metrics.jsonl")
    rows = train(sparse, data, QUICK, quiet, shrink=fxprune.Targets(macs=0.5), session=session)
    removed = RemoveLayers(threshold=0.0)(sparse).graph_module
    assert total_macs(removed) <= 0.5 * before
    images = sample_inputs(data, 32).double()
    assert torch.equal(sparse.eval().double()(images), removed.eval().double()(images))
    epochs = [row for row in rows if "epoch" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert epochs[-1]["macs_left"] == pytest.approx(total_macs(removed) / before)
    assert epochs[-1]["params_left"] == pytest.approx(total_params(removed) / total_params(sparse))
    assert read_rows(tmp_path / "metrics.jsonl")[0] == rows
    told: dict[str, float] = {}
    for row in rows:
        assert all(told.get(path) != scale for path, scale in row["scales"].items())
        told |= row["scales"]
    now = {layer.path: layer.module.effective_scale for layer in layers(sparse)}
    assert told == pytest.approx(now, abs=1e-4)
    assert 0 in now.values()


def test_closed_layers_are_not_computed(data: ImageData, tmp_path: Path) -> None:
    sparse = sparse_network(data)
    shrink = ProximalL1(sparse, 0.0)
    accelerator = make_accelerator(QUICK)
    trainer = Trainer(sparse, data, QUICK, Metrics(None, accelerator), shrink=shrink)
    trainer.prepare()
    whole = trainer._computed
    assert isinstance(whole, fx.GraphModule)
    branches = [path for path in shrink.layers if isinstance(shrink.layers[path], fxprune.BranchScale)]
    shrink.layers[branches[0]].close()
    trainer.prepare()
    lean = trainer._computed
    assert isinstance(lean, fx.GraphModule)
    assert total_macs(lean) < total_macs(whole) == total_macs(sparse)
    assert shrink.left == pytest.approx(total_macs(lean) / total_macs(sparse))
    images = sample_inputs(data, 4)
    assert torch.equal(lean.eval()(images), sparse.eval()(images))
    assert {id(p) for p in lean.parameters()} < {id(p) for p in sparse.parameters()}


def test_a_fixed_strength(data: ImageData) -> None:
    sparse = sparse_network(data)
    rows = train(sparse, data, replace(QUICK, epochs=1), quiet, shrink=50.0)
    assert rows[-1]["macs_left"] < 1
    assert rows[-1]["layers_left"] == len(ProximalL1(sparse).layers) - len(ProximalL1(sparse).zeros)


def test_resuming_in_the_middle_of_an_epoch_changes_nothing(data: ImageData, tmp_path: Path) -> None:
    often = replace(QUICK, checkpoint_minutes=0.0)  # after every step
    whole = sparse_network(data)
    session = Session(metrics=tmp_path / "whole.jsonl")
    train(whole, data, QUICK, quiet, shrink=fxprune.Targets(macs=0.5), session=session)
    halves = sparse_network(data)
    stop_at = [7, 15, 30]  # of 42 steps

    def killed(path: Path, state: dict[str, Any]) -> None:
        stops = stop_at and state["step"] >= stop_at[0]
        save_checkpoint(path, {**state, "seconds": state["seconds"] + (1000.0 if stops else 0.0)})
        if stops:
            stop_at.pop(0)
            raise KeyboardInterrupt

    for _ in range(4):
        halves = sparse_network(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fxprune.training.recipe.save_checkpoint", killed)
            try:
                session = Session(tmp_path / "c.pt", tmp_path / "halves.jsonl")
                train(halves, data, often, quiet, shrink=fxprune.Targets(macs=0.5), session=session)
            except KeyboardInterrupt:
                continue
    assert not stop_at
    same_state(whole, halves)
    a, b = (read_rows(tmp_path / f"{name}.jsonl")[0] for name in ("whole", "halves"))
    assert [{**row, "seconds": 0} for row in a] == [{**row, "seconds": 0} for row in b]
    assert 3000 <= sum(row["seconds"] for row in epochs(b)) < 4000  # those before each of the three stops count too
    assert all(row["device"] == "cpu" for row in epochs(b))


def test_accumulating_is_the_same_step(data: ImageData) -> None:
    def identity(_: int) -> nn.Module:
        return nn.Identity()

    settings = replace(QUICK, epochs=1)
    one, two = (sparse_network(data, identity).eval() for _ in range(2))
    for sparse, parts in ((one, 1), (two, 4)):
        for module in sparse.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        train(sparse, data, replace(settings, accumulate=parts), quiet, shrink=fxprune.Targets(macs=0.6))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("fresh_engine")
@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ({}, {"device": "meta"}, "training is on cpu in this process since an earlier run, and cannot move to meta"),
        ({}, {"precision": "bf16"}, "cannot train on device cpu: .*already been initialized"),
        ({"device": "quantum"}, {}, "cannot train on device quantum: "),
    ],
)
def test_one_engine_a_process(first: dict[str, Any], then: dict[str, Any], why: str) -> None:
    before = dict(os.environ)
    with pytest.raises(FxpruneError, match=why):
        [make_accelerator(replace(QUICK, **settings)) for settings in (first, then)]
    assert os.environ == before


@pytest.mark.usefixtures("fresh_engine")
@pytest.mark.filterwarnings("ignore:bf16 takes many times as long")
def test_bf16(data: ImageData) -> None:
    sparse = sparse_network(data)
    seen = set()
    conv = next(module for module in sparse.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    rows = train(sparse, data, replace(QUICK, precision="bf16"), quiet, shrink=fxprune.Targets(macs=0.5))
    assert torch.bfloat16 in seen
    assert all(parameter.dtype == torch.float32 for parameter in sparse.parameters())
    assert rows[-1]["top1"] > 0.6


@pytest.mark.usefixtures("fresh_engine")
@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch, capability: str, warned: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make_accelerator(replace(QUICK, precision="bf16", device="cpu"))
    assert any("--precision float32 is faster" in str(one.message) for one in found) is warned


@pytest.mark.usefixtures("fresh_engine")
def test_compiled(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plain = sparse_network(data), sparse_network(data)
    monkeypatch.setattr("fxprune.training.engine.COMPILER", "eager")  # torch.compile without a C++ compiler
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = replace(QUICK, epochs=1, distill=0.5, compile=True)
    accelerator = make_accelerator(settings)
    trainer = Trainer(plain, data, settings, Metrics(None, accelerator), teacher=network())
    assert isinstance(trainer.teacher, torch._dynamo.OptimizedModule)
    train(compiled, data, settings, quiet, shrink=fxprune.Targets(macs=0.5), teacher=network())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # the teacher, and once what layers left
    torch._dynamo.reset()
    AcceleratorState._reset_state()
    train(plain, data, replace(settings, compile=False), quiet, shrink=fxprune.Targets(macs=0.5), teacher=network())
    for a, b in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_recalibrating_measures_plain_means() -> None:
    norm = nn.BatchNorm2d(2)
    batches = [(torch.randn(4, 2, 3, 3) + 5, torch.zeros(4)) for _ in range(3)]
    recalibrate(norm, batches, 3)  # type: ignore[arg-type]
    mean = torch.stack([images.mean((0, 2, 3)) for images, _ in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    assert norm.momentum == 0.1
    assert norm.training


def test_recalibrating_leaves_frozen_norms_alone() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            super().train(False)
            return self

    norm = Frozen(2)
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    recalibrate(norm, [(torch.randn(4, 2, 3, 3) + 5, torch.zeros(4))], 1)  # type: ignore[arg-type]
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]


def test_fine_tuning_leaves_the_gates_as_they_are(data: ImageData, tmp_path: Path) -> None:
    settings = replace(QUICK, finetune_epochs=1, recalibrate=2, lr=0.05)
    said: list[str] = []
    goal = Goal(fxprune.Targets(macs=0.6))
    report = prune_on_data(network(), data, tmp_path / "out", settings, goal=goal, run=Run(said.append))
    assert report["accuracy_before_removal"] == report["accuracy_after_removal"]
    assert [row["step"] for row in read_rows(tmp_path / "out" / "finetune.jsonl")[0]][-1] == 21
    assert fxprune.load_emitted(tmp_path / "out")
    state = load_checkpoint(tmp_path / "out" / "finetune.pt")["model"]
    gates = {name: float(value) for name, value in state.items() if name.endswith(".gate")}
    assert gates
    assert set(gates.values()) == {1.0}


def test_rows_of_a_run_without_a_checkpoint_go(data: ImageData, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 50, "loss": 1.0}\n')
    session = Session(metrics=tmp_path / "metrics.jsonl")
    rows = train(network(), data, replace(QUICK, epochs=1), quiet, session=session)
    assert read_rows(tmp_path / "metrics.jsonl")[0] == rows
    assert len(rows) == 1


def test_a_label_outside_the_range(data: ImageData) -> None:
    with pytest.raises(FxpruneError, match="label 9, but the model has 4 outputs"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), data.held_out)


def test_a_checkpoint_of_another_version_is_refused(data: ImageData, tmp_path: Path) -> None:
    torch.save({"format": 1, "step": 3}, tmp_path / "c.pt")
    with pytest.raises(LoadError, match="has format 1"):
        train(network(), data, QUICK, quiet, session=Session(tmp_path / "c.pt"))


def test_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(FxpruneError, match="cannot be split into 3"):
        Settings(batch_size=64, accumulate=3)
