"""The recipe: checkpoints, resuming, a loss that diverges, and a small network that really learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import quiet
from torch import nn
from training_helpers import sparse_network

import fxprune
from fxprune.errors import LoadError
from fxprune.training.checkpoint import load_checkpoint, save_checkpoint
from fxprune.training.data import ImageData
from fxprune.training.evaluation import evaluate
from fxprune.training.loop import Trainer
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Schedule, Settings


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)]
    return nn.Sequential(*layers)


QUICK = Settings(epochs=2, lr=0.05, batch_size=64, device="cpu")


def test_it_learns(data: ImageData) -> None:
    model = net()
    before = evaluate(model, data.held_out)
    train(model, data, QUICK, quiet)
    assert evaluate(model, data.held_out) > max(0.8, before)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data: ImageData, tmp_path: Path) -> None:
    whole = net()
    train(whole, data, QUICK, quiet, session=Session(tmp_path / "whole.pt"))
    # stop after the first epoch by an error in the second
    halves = net()
    said: list[str] = []

    def stop(message: str) -> None:
        said.append(message)

    class Stop(Exception):
        pass

    def stop_after_first(message: str) -> None:
        if message.startswith("epoch 1"):
            raise Stop

    with pytest.raises(Stop):
        train(halves, data, QUICK, stop_after_first, session=Session(tmp_path / "halves.pt"))
    resumed = net()
    train(resumed, data, QUICK, stop, session=Session(tmp_path / "halves.pt"))
    assert said[0].startswith("resuming after epoch 1")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_another_run_is_refused(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    train(net(), data, replace(QUICK, epochs=1), quiet, session=Session(path))
    with pytest.raises(LoadError, match="is of a run with settings"):
        train(net(), data, QUICK, quiet, session=Session(path))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(LoadError, match="is of another model"):
        train(other, data, replace(QUICK, epochs=1), quiet, session=Session(path))


def test_old_keywords_warn_once_and_do_the_same(data: ImageData, tmp_path: Path) -> None:
    settings, path, any_train = replace(QUICK, epochs=1), tmp_path / "c.pt", train
    advice = r"shrink=0\.5, session=fxprune.training.recipe.Session\(checkpoint=\.\.\.\)"
    sparse, same = sparse_network(data), sparse_network(data)
    with pytest.warns(
        DeprecationWarning, match=rf"^checkpoint, strength of train will go in .*: give {advice}$"
    ) as told:
        any_train(sparse, data, settings, quiet, checkpoint=path, strength=0.5)  # type: ignore[call-arg]
    assert [one.filename for one in told] == [__file__]
    assert path.exists()
    train(same, data, settings, quiet, shrink=0.5)
    for (name, a), b in zip(sparse.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(fxprune.FxpruneError, match="50% of the MACs: that is for layers that are steered to zero"):
        any_train(same, data, settings, quiet, strength=1.0, targets=fxprune.Targets(macs=0.5))  # type: ignore[call-arg]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"epoch": 1, "model": net().state_dict()})
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LoadError, match="damaged"):
        load_checkpoint(path)


def test_the_old_checkpoint_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LoadError, match=r"No space left .* the last one is still there"):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_loss_that_diverges_stops_and_keeps_the_checkpoint(data: ImageData, tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model[4].weight.fill_(float("inf"))  # type: ignore[index]
    with pytest.raises(fxprune.FxpruneError, match="at step 0; the last checkpoint, if there is one, is"):
        train(model, data, replace(QUICK, epochs=1), quiet, session=Session(tmp_path / "other.pt"))
    assert not (tmp_path / "other.pt").exists()


def test_a_loss_that_diverges_later_keeps_the_last_good_checkpoint(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    real = Trainer._train_step

    def diverges(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> float:
        return real(trainer, images * (float("nan") if trainer.step == 25 else 1), labels)

    monkeypatch.setattr(Trainer, "_train_step", diverges)
    with pytest.raises(fxprune.FxpruneError, match="became nan at step 25"):
        train(net(), data, QUICK, quiet, session=Session(path))
    state = load_checkpoint(path)
    assert state["step"] == 21  # after the first epoch
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_model_without_logits_is_refused(data: ImageData) -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"logits of shape \(N, classes\)"):
        evaluate(nn.Identity(), data.held_out)


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(0.1, 100)
    rates = [schedule.at(step) for step in range(101)]
    assert rates[0] < rates[4] <= 0.1
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[100] == pytest.approx(0, abs=1e-12)
