"""Options that commands share: ``--json`` prints one object, alone; exports ask for a folder and a format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import NET, run

INPUT = ("--input", "2,3,16,16")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """Return the JSON object that a command prints, and nothing beside it."""
    found, out, err = run(capsys, *arguments, "--json")
    assert (found, err) == (code, "")
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


def test_passes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    by_name = {one["name"]: one for one in printed(capsys, "passes")["passes"]}
    assert by_name["insert-resconv"]["options"]["shortcut"] == 0.0
    assert by_name["simplify"]["contract"] == "values"
    assert by_name["remove-channels"]["options"]["indices"] == {}
    text = run(capsys, "passes")[1]
    assert all(name in text and one["help"] in text for name, one in by_name.items())


def test_a_run_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = printed(capsys, "run", NET, *INPUT, "--passes", "fold-batch-norm,simplify", "--out", str(out))
    assert [step["pass"] for step in found["steps"]] == ["fold-batch-norm", "simplify"]
    assert found["steps"][0]["sites"] == 19
    assert found["before"]["nodes"] - found["steps"][-1]["nodes"] == 19
    assert found["before"]["macs"] == found["steps"][-1]["macs"]
    assert found["max_relative_difference"] < 1e-9
    assert (found["model"], found["out"]) == (NET, str(out))
    assert printed(capsys, "run", NET, *INPUT, "--passes", "simplify", "--no-verify")["out"] is None
    assert printed(capsys, "inspect", NET, *INPUT)["model"] == NET
    changes = printed(capsys, "diff", str(out), code=1)["changes"]
    assert sum(change["kind"] == "fused" for change in changes) == 19
    assert printed(capsys, "diff", str(out), str(out))["changes"]


def test_a_report_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        {"step": 5, "epoch": 1, "loss": 1.0, "scales": {"a": 1.0}},
        {"step": 7, "loss": 0.5, "scales": {"a": 0.5}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = printed(capsys, "report", str(tmp_path))
    assert (found["folder"], found["finished"], found["report"]) == (str(tmp_path), False, None)
    assert (found["epochs"], found["scales"]) == ([{"step": 5, "epoch": 1, "loss": 1.0}], {"a": 0.5})
    code, _, err = run(capsys, "report", str(tmp_path), "--json", "--html", "x.html")
    assert (code, "exclude one another" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "onnx"), "--format needs --out"),
        (("--dynamic",), "give a format too"),
        (("--format", "tflite"), "'tflite' is not one of"),
    ],
)
def test_exports_that_make_no_sense(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    code, out, err = run(capsys, "run", NET, *INPUT, "--passes", "simplify", *options)
    assert (code > 0, out, message in err, err.count("\n")) == (True, "", True, 1), err
