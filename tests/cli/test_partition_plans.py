"""fxprune plan --partition writes which feature is in which block, fxprune apply splits by that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import run

import fxprune

HEAD = """
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    head = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)
    return nn.Sequential(nn.Flatten(), *head)


def other():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "network.py").write_text(HEAD)
    return f"{tmp_path / 'network.py'}:network"


@pytest.mark.parametrize("given", [("--input", "2,1,8,8"), ("--data", "digits", "--images", "40")])
def test_a_plan_is_chosen_and_applied(
    model: str, given: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, out = tmp_path / "partition.json", tmp_path / "out"
    code, text, err = run(capsys, "plan", model, *given, "--partition", "4", "-o", str(file))
    assert (code, err) == (0, "")
    assert "1: 32x64 -> 4 blocks of 8x16; " in text
    assert f"of its {'activation' if '--data' in given else 'weight'} lies in them" in text
    assert list(fxprune.PartitionPlan.load(file).layers) == ["1", "3"]
    code, _, err = run(capsys, "apply", str(file), model, "--input", "2,1,8,8", "--out", str(out))
    assert (code, err) == (0, "")
    targets = {str(node.target) for node in fxprune.load_emitted(out).graph.find_nodes(op="call_module")}
    assert {"1.0", "1.3", "3.0", "3.3", "5"} <= targets


def test_as_json(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("plan", model, "--input", "2,1,8,8", "--partition", "2", "-o", str(tmp_path / "p.json"), "--json")
    code, text, _ = run(capsys, *asked)
    assert code == 0
    assert json.loads(text)["blocks"][0].startswith("1: 32x64 -> 2 blocks of 16x32; ")


def test_what_says_what_else_goes_is_refused(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("plan", model, "--input", "2,1,8,8", "--partition", "2", "-o", str(tmp_path / "p.json"))
    code, _, err = run(capsys, *asked, "--target-macs", "0.5")
    assert (code, "--target-macs is of layers or channels that go" in err) == (2, True)
    code, _, err = run(capsys, *asked, "--keep", "3")
    assert code == 1
    assert "no chain of linear layers can be split: 1: kept by the user" in err


def test_a_plan_of_another_network_is_refused(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "partition.json"
    assert run(capsys, "plan", model, "--input", "2,1,8,8", "--partition", "2", "-o", str(file))[0] == 0
    other = model.replace(":network", ":other")
    code, _, err = run(capsys, "apply", str(file), other, "--input", "2,8")
    assert (code, err.count("\n")) == (1, 1)
    assert "no layer of a chain here" in err
