"""fxprune latency, and targets of time in fxprune prune: on a clock of closed formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import SMALL, run
from fake_latency import FakeLatency

from fxprune.pruning.latency_model import LatencyModel

ASKED: list[dict[str, Any]] = []
"""The options that models were measured with."""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small network, which takes what a formula says."""

    def measure(graph_module: Any, *, batch: int = 1, **options: Any) -> LatencyModel:
        ASKED.append(options)
        return FakeLatency(batch=batch, off=1.1)

    monkeypatch.setattr(LatencyModel, "measure", measure)
    file = tmp_path / "network.py"
    file.write_text(SMALL)
    return f"{file}:network"


def test_it_tells_where_time_goes(network: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "latency.html"
    code, text, err = run(capsys, "latency", network, "--input", "1,1,8,8", "--html", str(page))
    assert (code, err) == (0, "")
    assert "8 -> 12" in text
    assert "what may go" in text
    assert "op by op" in page.read_text().lower()
    code, text, _ = run(capsys, "latency", network, "--input", "1,1,8,8", "--json")
    told = json.loads(text)
    assert code == 0
    assert sum(one["ms"] for one in told["ops"]) == pytest.approx(told["predicted_ms"])
    assert {one["kind"] for one in told["sites"]} == {"channels"}
    code, _, err = run(capsys, "latency", network, "--json", "--html", str(page))
    assert code == 2
    assert "exclude one another" in err


def test_a_training_meets_a_target_of_time(network: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (
        "--data",
        "digits",
        "--epochs",
        "1",
        "--what",
        "channels",
        "--target-latency",
        "0.8",
        "--out",
        str(out),
    )
    code, text, _ = run(capsys, "prune", network, *options)
    assert code == 0
    told = json.loads((out / "report.json").read_text())["latency"]
    assert told["after_ms"] <= told["target_ms"] * 1.0001 == pytest.approx(0.8 * told["before_ms"], rel=1e-3)
    assert told["points"]
    assert "predicted ms" in text
    code, text, _ = run(capsys, "report", str(out))
    assert "predicted ms" in text


NO_TRAIN = ("--data", "digits", "--no-train", "--images", "80", "--what", "channels", "--criterion", "l1")


@pytest.mark.parametrize(
    ("options", "expected", "said"),
    [
        ((), {}, "times are measured on cpu: --latency-device says where else"),
        (("--device", "cuda:1"), {"device": "cuda:1"}, "times are measured on cuda:1"),
        (("--device", "cuda:1", "--latency-device", "cpu"), {"device": "cpu"}, "times are measured on cpu"),
        (("--latency-device", "cuda", "--threads", "1"), {"device": "cuda", "threads": 1}, "on cuda:"),
    ],
)
def test_times_are_of_the_device_that_is_asked_for(
    options: tuple[str, ...],
    expected: dict[str, Any],
    said: str,
    network: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    ASKED.clear()
    command = ("prune", network, *NO_TRAIN, "--target-latency", "0.8", "--out", str(tmp_path / "out"))
    code, text, _ = run(capsys, *command, *options)
    assert code == 0
    assert [expected] == ASKED
    assert said in text


def test_options_of_times_need_a_target_in_time(
    network: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("prune", network, *NO_TRAIN, "--out", str(tmp_path / "out"))
    code, _, err = run(capsys, *command, "--latency-device", "cpu")
    assert code == 2
    assert "--latency-device needs --target-ms, --target-latency or --frontier" in err
    code, _, err = run(capsys, *command, "--device", "cpu")
    assert code == 2
    assert "--device is of a training: leave it out" in err
    ASKED.clear()
    code, _, err = run(capsys, *command, "--search", "cap", "--target-ms", "4")
    assert code == 1
    assert "search cap knows no target in time" in err
    assert ASKED == []


def test_a_run_that_goes_on_has_what_was_asked_and_measured_before(
    network: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("prune", network, *NO_TRAIN, "--target-latency", "0.8", "--out", str(out))
    assert run(capsys, *command)[0] == 0
    before = json.loads((out / "report.json").read_text())["latency"]
    assert before["points"]
    (out / "report.json").unlink()
    assert run(capsys, *command)[0] == 0
    assert json.loads((out / "report.json").read_text())["latency"] == before


@pytest.mark.parametrize("way", [("--epochs", "1"), ("--no-train", "--images", "80")])
def test_a_frontier_is_one_run_with_a_network_for_each_target(
    network: str, way: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("prune", network, "--data", "digits", "--what", "channels", *way, "--frontier", "0.8", "0.9", "--out")
    assert run(capsys, *command, str(out))[0] == 0
    points = json.loads((out / "frontier.json").read_text())["points"]
    assert [one["target"] for one in points] == [None, 0.9, 0.8]
    assert points[1]["ms"] <= 0.9001 * points[0]["ms"]
    assert points[2]["ms"] <= 0.8001 * points[0]["ms"]
    assert 'href="latency-0.8/diff.html"' in (out / "frontier.html").read_text()
    assert (out / "latency-0.9" / "model.py").exists()
    (out / "frontier.json").unlink()
    before = (out / "latency-0.9" / "report.json").read_bytes()
    assert run(capsys, *command, str(out))[0] == 0
    assert (out / "latency-0.9" / "report.json").read_bytes() == before
    assert json.loads((out / "frontier.json").read_text())["points"] == points
