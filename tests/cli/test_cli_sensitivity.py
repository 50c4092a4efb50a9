"""fxprune sensitivity: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import run

import fxprune


@pytest.fixture
def model(tmp_path: Path) -> str:
    network = tmp_path / "network.py"
    network.write_text(
        "from torch import nn\n\n\ndef network():\n"
        "    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    )
    return f"{network}:network"


DATA = ("--data", "digits", "--images", "70")


def test_it_is_printed_and_written(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    targets = ("--target-macs", "0.5", "--target-macs", "0.001")
    code, text, err = run(capsys, "sensitivity", model, *DATA, *targets, "--out", str(out))
    assert code == 0
    assert "removals on at most 70 samples" in err
    assert err.count("\n") == 1
    assert "2 of 8" in text
    assert "measured on at most 70 samples" in text
    assert text.endswith(f"written to {out}\n")
    assert sorted(file.name for file in out.iterdir()) == [
        "curve.svg",
        "plan-0.5.json",
        "sensitivity.html",
        "sensitivity.json",
        "sites.svg",
    ]
    told = json.loads((out / "sensitivity.json").read_text())
    assert told["model"] == model
    plan = fxprune.PruningPlan.load(out / "plan-0.5.json")
    assert told["curve"][0]["goes"] == str(plan)
    code, text, err = run(capsys, "apply", str(out / "plan-0.5.json"), model, "--input", "2,1,8,8")
    assert (code, err) == (0, "")


def test_it_is_told_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--what", "channels", "--share", "0.5", "--target-macs", "0.7", "--no-labels", "--criterion", "l2")
    code, text, _ = run(capsys, "sensitivity", model, *DATA, *options, "--json")
    assert code == 0
    told = json.loads(text)
    assert (told["model"], told["criterion"], told["out"]) == (model, "l2", None)
    assert {(one["kind"], one["goes"], one["width"]) for one in told["sites"]} == {("channels", 4, 8)}
    assert {one["top1"] for one in told["sites"]} == {None}
    assert [one["target"] for one in told["curve"]] == [0.7]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "sensitivity compares outputs on images; give --data"),
        ((*DATA, "--what", "layers"), 1, "what names some of convs, branches, channels, or all; got 'layers'"),
        ((*DATA, "--share", "1.5"), 2, "Invalid value for '--share'"),
        ((*DATA, "--criterion", "l3"), 1, "unknown criterion 'l3'; did you mean"),
        ((*DATA, "--keep", "9"), 1, "keep has '9', which matches no module"),
        ((*DATA, "--out", "/dev/null/out"), 1, "cannot write /dev/null/out"),
    ],
)
def test_bad_input_is_one_line(
    model: str, options: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, err = run(capsys, "sensitivity", model, *options)
    assert (found, err.count("\n")) == (code, 1), err
    assert message in err
