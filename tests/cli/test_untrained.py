"""fxprune prune --no-train: a folder with the pruned network, from which another run goes on, or does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import SMALL, run

import fxprune
from fxprune.run_record import read_run


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "network.py"
    file.write_text(SMALL)
    return ("prune", f"{file}:network", "--data", "digits", "--no-train", "--images", "80", "--out")


def test_a_network_is_pruned_and_repaired(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, text, err = run(capsys, *command, str(out), "--target-macs", "0.6")
    assert (code, err) == (0, "")
    assert "first choice as before" in text
    assert "no unpruned one was trained" not in text
    report = json.loads((out / "report.json").read_text())
    assert report["macs_after"] <= 0.6 * report["macs_before"]
    assert set(report["stages"]) == {"unpruned", "cut", "norms anew", "repaired", "repaired, norms anew"}
    assert report["stages"]["unpruned"]["agreement"] == 1
    assert all("refitted on 60 images" in why for why in report["repaired"].values())
    assert fxprune.PruningPlan.load(out / "plan.json").criterion == "repaired-damage"
    assert "repaired" in str(read_run(out))
    code, text, _ = run(capsys, *command, str(out), "--target-macs", "0.6")
    assert code == 0
    assert "holds this run, finished" in text


def test_a_run_goes_on_from_what_was_chosen(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(capsys, *command, str(out), "--criterion", "l1", "--what", "channels")[0] == 0
    (out / "report.json").unlink()
    plan = json.loads((out / "plan.json").read_text())
    gone = plan["sites"][0]["indices"].pop()
    plan["sites"][0]["scores"].pop()
    (out / "plan.json").write_text(json.dumps(plan))
    assert run(capsys, *command, str(out), "--criterion", "l1", "--what", "channels")[0] == 0
    assert gone not in fxprune.PruningPlan.load(out / "plan.json").sites[0].indices
    (out / "report.json").unlink()
    code, _, err = run(capsys, *command, str(out), "--criterion", "l2", "--what", "channels")
    assert (code, err.count("\n")) == (1, 1)
    assert "holds an unfinished run with criterion l1, not l2" in err


def test_a_plan_is_repaired(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(capsys, *command, str(first), "--criterion", "l1", "--what", "channels")[0] == 0
    code, text, _ = run(
        capsys, *command, str(second), "--plan", str(first / "plan.json"), "--norms", "keep", "--json"
    )
    assert code == 0
    assert json.loads(text)["stages"]["cut"]["moved"] > 0
    assert (second / "plan.json").read_text() == (first / "plan.json").read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--epochs", "3"), 2, "--epochs is of a training: leave it out"),
        (("--strength", "0.1"), 2, "--strength is of a training: leave it out"),
        (("--criterion", "l3"), 1, "unknown criterion 'l3'"),
        (("--images", "2"), 2, "--images"),
        (("--search", "cap"), 1, "search cap is of channels alone"),
        (("--target-macs", "0.001"), 1, "cannot be met"),
        (("--image-size", "2"), 1, "does not take images of 1x2x2"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...],
    code: int,
    message: str,
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    found, _, err = run(capsys, *command, str(tmp_path / "out"), *options)
    assert found == code, err
    assert message in err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.json"))


def test_the_search_of_cap(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("--search", "cap", "--what", "channels", "--target-macs", "0.8")
    code, _, err = run(capsys, *command, str(out), *asked)
    assert (code, err) == (0, "")
    assert fxprune.PruningPlan.load(out / "plan.json").criterion == "cap"
    assert (out / "search.json").exists()


def test_options_without_training_need_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, *[one for one in command if one != "--no-train"], str(tmp_path / "out"))
    assert code == 2
    assert "--images needs --no-train" in err


def test_several_processes_are_refused(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(capsys, *command, str(tmp_path / "out"))
    assert code == 2
    assert "--no-train runs in one process" in err
