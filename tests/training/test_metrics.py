"""What a run tells: rows in a file, and TensorBoard's files where it is installed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fxprune.run_record import read_rows
from fxprune.training.engine import make_accelerator
from fxprune.training.metrics import Metrics, epochs, progress_bar
from fxprune.training.settings import Settings

pytestmark = pytest.mark.usefixtures("fresh_engine")


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    accelerator = make_accelerator(Settings(device="cpu"), tmp_path)
    accelerator.init_trackers("tensorboard")
    log = Metrics(tmp_path / "metrics.jsonl", accelerator)
    log.write({"step": 50, "loss": 1.5, "scales": {"a.conv": 1.0, "b.conv": 0.5}})
    log.write({"step": 100, "loss": 1.25, "scales": {"b.conv": 0.25}})
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    told = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert told == {
        "metrics/loss": [(50, 1.5), (100, 1.25)],
        "metrics/scales/a.conv": [(50, 1.0)],
        "metrics/scales/b.conv": [(50, 0.5), (100, 0.25)],
    }


def test_rows_that_come_again_and_lines_cut_short_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 50, "loss": 2.0, "scales": {"a": 1.0}}, {"step": 100, "loss": 1.0, "scales": {"a": 0.5}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 150, "lo')
    log = Metrics(path, make_accelerator(Settings(device="cpu")))
    log.resume(50)
    assert log.rows == read_rows(path)[0] == rows[:1]
    assert log.scales == {"a": 1.0}


def test_which_layers_are_gone_is_known_after_a_restart(tmp_path: Path) -> None:
    accelerator = make_accelerator(Settings(device="cpu"))
    log = Metrics(tmp_path / "metrics.jsonl", accelerator)
    log.write({"step": 50, "gone": ["a"]})
    log.write({"step": 100, "gone": ["b"]})
    assert log.gone == {"a", "b"}
    again = Metrics(tmp_path / "metrics.jsonl", accelerator)
    again.resume(50)
    assert again.gone == {"a"}


@pytest.mark.parametrize("width", [80, 70])
def test_the_time_left_fits_into_a_narrow_terminal(width: int) -> None:
    bar, console = progress_bar(True), Console(width=width, file=io.StringIO())
    note = "loss 0.345, top-1 98.76%, 100.0% of the MACs and 113 of 113 layers left"
    bar.add_task("comparing layer 112/113", total=15640, completed=7820, note=note)
    console.print(bar.get_renderable())
    (line,) = console.file.getvalue().strip().splitlines()  # type: ignore[attr-defined]
    assert "7820/15640 -:--:-- loss" in line
    assert len(line) <= width


def test_a_report_tells_of_each_epoch_what_is_left() -> None:
    row = {"step": 9, "epoch": 1, "layers_left": 2, "channels_left": 30, "macs_left": 0.5}
    assert epochs([{"step": 5, "loss": 1.0}, row]) == [{name: row[name] for name in row if name != "step"}]
