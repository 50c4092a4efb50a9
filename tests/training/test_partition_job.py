"""fxprune prune --partition: a folder with a head of blocks, trained or not, gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_helpers import run

import fxprune
from fxprune.run_record import read_run

HEAD = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    trunk = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    head = nn.Linear(72, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)
    return nn.Sequential(*trunk, *head)


def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
TRAIN = ("--epochs", "3", "--lr", "0.02")


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "network.py"
    file.write_text(HEAD)
    return ("prune", f"{file}:network", "--data", "digits", "--images", "80", "--out")


def blocks_hold(out: Path) -> bool:
    graph = fxprune.load_emitted(out)
    return {"5.0", "5.1", "8.0", "8.1"} <= {str(node.target) for node in graph.graph.find_nodes(op="call_module")}


def test_a_head_is_split_and_trained(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = (*command, str(out), "--partition", "2", *TRAIN, "--parallel", "--baseline")
    code, text, err = run(capsys, *asked)
    assert (code, err) == (0, "")
    assert "5: 32x72 -> 2 blocks of 16x36; " in text
    assert "top-1 with both trained as long" in text
    report = json.loads((out / "report.json").read_text())
    assert report["params_before"] - report["params_after"] >= (72 * 32 + 32 * 24) // 2
    assert report["max_relative_difference"] < 1e-9
    assert report["blocks"][0].startswith("5: 32x72 -> 2 blocks of 16x36; ")
    assert blocks_hold(out)
    parts = [fxprune.load_emitted(out / "parts" / f"part{block}") for block in range(2)]
    x = torch.randn(3, 1, 8, 8)
    total = sum(one(x).detach() for one in parts)
    assert torch.allclose(total, fxprune.load_emitted(out)(x).detach(), atol=1e-5)
    assert "top-1, masked and repaired" in str(read_run(out))
    code, text, _ = run(capsys, *asked)
    assert "holds this run, finished" in text


def test_without_training(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = (*command, str(out), "--partition", "3", "--partition-search", "random", "--no-train")
    code, text, err = run(capsys, *asked)
    assert (code, err) == (0, "")
    assert "3 does not divide the channels of 0 (8): blocks of 3 and of 2" in text
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy_after"] == report["accuracy_after_repair"]
    assert report["settings"]["no_train"]
    assert str(read_run(out)).count("5: 32x72 -> 3 blocks") == 1


def test_a_run_goes_on_from_its_blocks_and_its_checkpoint(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = (*command, str(out), "--partition", "2", *TRAIN)
    assert run(capsys, *asked)[0] == 0
    weights, chosen = (out / "weights.safetensors").read_bytes(), (out / "partition.json").read_text()
    (out / "report.json").unlink()
    code, text, _ = run(capsys, *asked)
    assert code == 0
    assert "resuming after epoch 3" in text
    assert (out / "partition.json").read_text() == chosen
    assert (out / "weights.safetensors").read_bytes() == weights
    (out / "report.json").unlink()
    for checkpoint in out.glob("*.pt"):
        checkpoint.unlink()
    code, _, err = run(capsys, *(one if one != "2" else "4" for one in asked))
    assert (code, err.count("\n")) == (1, 1)
    assert "partition 2, not 4" in err


@pytest.mark.parametrize("option", ["--distill", "--distill-features"])
def test_the_unpruned_network_teaches(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    out = tmp_path / "out"
    code, _, err = run(capsys, *command, str(out), "--partition", "2", "--epochs", "1", option, "0.5")
    assert (code, err) == (0, "")
    assert blocks_hold(out)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--partition", "17"), 2, "17 is not in the range"),
        (("--partition", "2", "--target-macs", "0.5"), 2, "--target-macs is of layers or channels that go"),
        (("--partition", "2", "--what", "channels"), 2, "--what is of layers or channels that go"),
        (("--parallel",), 2, "--parallel needs --partition"),
        (("--partition-search", "random"), 2, "--partition-search needs --partition"),
        (("--partition", "9"), 1, "blocks=9, but 0 has 8 channels or features to enter by"),
        (("--partition", "2", "--keep", "5"), 1, "no chain of linear layers can be split: 5: kept by the user"),
    ],
)
def test_errors(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    found, _, err = run(capsys, *command, str(tmp_path / "out"), "--no-train", *options)
    assert found == code
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_head_of_one_layer(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = [one.replace(":network", ":one") for one in command]
    code, _, err = run(capsys, *asked, str(tmp_path / "out"), "--partition", "2", "--no-train")
    assert (code, err.count("\n")) == (1, 1)
    assert "no chain of linear layers can be split: 1: nothing reads it feature by feature: output" in err
