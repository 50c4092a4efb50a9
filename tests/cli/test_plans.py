"""fxprune plan and fxprune apply: a plan is written, told, edited, refused, and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import NET, run
from safetensors.torch import load_file

import fxprune

SHAPE = ("--input", "2,3,16,16")
HALF = ("--target-macs", "0.5")


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    file = tmp_path / "plan.json"
    code, out, err = run(capsys, "plan", NET, *SHAPE, *HALF, "-o", str(file))
    assert (code, err) == (0, "")
    assert "channels  layer1.0.conv1" in out
    assert "channels of 10 layers, by l1, for at most 50% of the MACs; 49." in out
    assert out.endswith(f"written to {file}\n")
    return file


def test_a_plan_is_applied(plan: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = fxprune.PruningPlan.load(plan)
    folder = tmp_path / "out"
    code, out, err = run(capsys, "apply", str(plan), NET, *SHAPE, "--out", str(folder))
    assert (code, err) == (0, "")
    assert out.endswith(f"written to {folder}\n")
    assert "remove-channels" in out
    state = load_file(folder / "weights.safetensors")
    for path, places in found.indices.items():
        width = next(one.width for one in found.sites if one.path == path)
        assert len(state[f"{path}.weight"]) == width - len(places)
    assert "layer1.0.bn1.weight" in state
    assert (folder / "diff.html").exists()
    code, _, err = run(capsys, "apply", str(plan), NET, *SHAPE, "--out", str(folder))
    assert (code, err.count("\n")) == (1, 1)
    assert "is not empty" in err
    code, out, _ = run(capsys, "apply", str(plan), NET, *SHAPE, "--norms", "fold", "--json", "--no-verify")
    assert code == 0
    told = json.loads(out)
    assert told["steps"][0]["pass"] == "remove-channels"
    assert any(step["pass"] == "fold-batch-norm" for step in told["steps"])
    code, _, err = run(capsys, "apply", str(plan), str(folder))
    assert (code, err.count("\n")) == (1, 1)
    assert "the plan is for another network: its layer 2 is layer1.0.conv1 Conv2d 16x16x3x3, and here it is" in err


def test_a_plan_of_layers_and_channels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    chosen = ("--what", "branches,channels", "--criterion", "l2", "--multiple-of", "4", "--keep", "layer3")
    code, out, _ = run(capsys, "plan", NET, *SHAPE, "--target-macs", "0.7", *chosen, "-o", str(file), "--json")
    assert code == 0
    told = json.loads(out)
    assert told["criterion"] == "l2"
    assert told["targets"]["target_macs"] == 0.7
    assert told["macs_left"] <= 0.7
    assert not [one for one in told["sites"] if one["path"].startswith("layer3")]
    assert {one["kind"] for one in told["sites"]} <= {"branch", "channels"}
    code, out, err = run(capsys, "apply", str(file), NET, *SHAPE)
    assert (code, err) == (0, ""), err


def test_criteria_that_look_at_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = tmp_path / "network.py"
    network.write_text(
        "from torch import nn\n\n\ndef network():\n"
        "    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)\n"
        "    return nn.Sequential(*layers)\n"
    )
    command = (
        "plan",
        f"{network}:network",
        "--ratio",
        "0.5",
        "--criterion",
        "taylor",
        "-o",
        str(tmp_path / "p.json"),
    )
    code, out, err = run(capsys, *command, "--data", "digits", "--images", "70")
    assert (code, err) == (0, "")
    assert "4 channels of 1 layer, by taylor" in out
    code, _, err = run(capsys, *command, "--input", "2,1,8,8")
    assert (code, err.count("\n")) == (1, 1)
    assert "criterion taylor needs labels" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 1, "choose takes targets, or a ratio of channels: how much is to go?"),
        (("--ratio", "1.5"), 1, "ratio is a share above 0 and below 1"),
        (("--ratio", "0.5", *HALF), 1, "ratio and targets exclude one another"),
        (("--target-macs", "0.001"), 1, "target_macs=0.001 cannot be met: without all"),
        ((*HALF, "--what", "channel"), 1, "what names some of convs, branches, channels, or all; got 'channel'"),
        ((*HALF, "--criterion", "l3"), 1, "unknown criterion 'l3'; did you mean"),
        ((*HALF, "--keep", "layr1"), 1, "keep has 'layr1', which matches no module"),
        ((*HALF, "--multiple-of", "0"), 1, "multiple_of is a number of channels from 1; got 0"),
        ((*HALF, "--images", "8"), 2, "--images needs --data"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found, _, err = run(capsys, "plan", NET, *SHAPE, *options, "-o", str(tmp_path / "plan.json"))
    assert (found, err.count("\n")) == (code, 1), err
    assert message in err
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_that_cannot_be_written_or_read(
    plan: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for file in (tmp_path / "no" / "plan.json", tmp_path):
        code, _, err = run(capsys, "plan", NET, *SHAPE, *HALF, "-o", str(file))
        assert (code, err.count("\n")) == (1, 1), err
        assert "cannot write" in err
    content: dict[str, Any] = json.loads(plan.read_text())
    content["sites"][0]["indices"].append(99)
    plan.write_text(json.dumps(content))
    code, _, err = run(capsys, "apply", str(plan), NET, *SHAPE)
    assert (code, err.count("\n")) == (1, 1)
    assert "index 99 of layer1.0.conv1 is out of range: it has 16 channels, 0 to 15" in err
    code, _, err = run(capsys, "apply", "none.json", NET, *SHAPE)
    assert (code, err) == (1, "fxprune: error: cannot read none.json: No such file or directory\n")
