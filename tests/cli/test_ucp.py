"""fxprune prune --method ucp: from the shell to a folder, which is finished once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import SMALL, run

from fxprune.emission.emit import load_emitted


def test_widths_are_found_and_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "network.py", tmp_path / "out"
    file.write_text(SMALL)
    command = ("prune", f"{file}:network", "--method", "ucp", "--data", "digits", "--epochs", "1")
    options = ("--target-params", "0.6", "--norms", "keep", "--device", "cpu", "--out", str(out))
    code, text, err = run(capsys, *command, *options)
    assert (code, err) == (0, ""), err
    assert "the channels of 2 convs are judged" in text
    assert "with gates of attention" in text.splitlines()[-3]
    assert "starts from random weights" not in text
    report = json.loads((out / "report.json").read_text())
    assert report["params_after"] <= 0.6 * report["params_before"]
    assert report["settings"]["method"] == "ucp"
    assert not any("attention" in name for name in load_emitted(out).state_dict())
    code, text, _ = run(capsys, *command, *options)
    assert code == 0
    assert "holds this run, finished" in text
    code, text, _ = run(capsys, "report", str(out))
    assert code == 0
    assert "channels of" in text
    code, _, err = run(capsys, *command, "--alpha", "0.9", "--device", "cpu", "--out", str(out))
    assert (code, err.count("\n")) == (1, 1)
    assert "holds a finished run, with other options" in err


def test_weights_are_drawn_anew_without_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "network.py"
    file.write_text(SMALL)
    options = ("--passes", "reset-weights{seed=3}", "--input", "1,1,8,8", "--out", str(tmp_path / "out"))
    code, text, _ = run(capsys, "run", f"{file}:network", *options)
    assert code == 0
    assert "reset-weights" in text
    assert load_emitted(tmp_path / "out").state_dict().keys() >= {"0.weight", "3.weight"}
