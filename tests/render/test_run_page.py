"""The page of a training run: plots of what was measured, tables of the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from render_helpers import Open

from fxprune.errors import FxpruneError
from fxprune.render.plots import run_plots
from fxprune.render.run_page import run_page
from fxprune.run_record import RunRecord

LAYERS = {"first": 1.0, "second$x$<b>": 0.8}


def record(*names: str, report: dict[str, Any] | None = None) -> RunRecord:
    rows = [
        {
            "step": step,
            "epoch": step,
            "top1": 0.5 + step / 100,
            "layers_left": 2,
            "macs_left": 0.5,
            "scales": LAYERS if step == 1 else {"first": 0.0},
        }
        for step in (1, 2, 3)
    ]
    kept = [{name: row[name] for name in ("step", *names)} for row in rows]
    return RunRecord(Path("some/run"), {"model": "NET<i>"}, tuple(kept), (), report)


def test_plots_hold_what_was_measured() -> None:
    svg = run_plots(record("top1", "layers_left", "macs_left", "scales"))
    for title in ("effective scale of each layer", "layers left", "MACs left", "held-out top-1", "reached zero"):
        assert f">{title}</text>" in svg
    assert "currentColor" in svg
    assert "layers left" not in run_plots(record("top1"))
    assert run_plots(record()) == ""
    assert svg == run_plots(record("top1", "layers_left", "macs_left", "scales"))


def test_the_page_opens_without_script_or_network(opened: Open) -> None:
    report = {
        "macs_before": 10, "macs_after": 5, "params_before": 4, "params_after": 2, "accuracy_before": 0.5,
        "accuracy_after": 0.25,
    }  # fmt: skip
    tab = opened(run_page(record("top1", "layers_left", "macs_left", "scales", report=report)))
    assert tab.locator("h1").inner_text() == "run: training"
    text = tab.locator("main").inner_text()
    assert "25.00%" in text
    assert tab.locator("svg").count() == 1
    cells = tab.locator("table").nth(1).locator("tbody tr").all_inner_texts()
    assert [cell.split("\t") for cell in cells] == [["first", "0", "2"], ["second$x$<b>", "0.8", ""]]
    assert tab.evaluate("document.scripts.length") == 0


def test_a_page_of_a_run_that_has_just_begun() -> None:
    text = run_page(record())
    assert "Nothing was measured yet" in text
    assert "scales were not recorded" in text
    assert "NET&lt;i&gt;" in text


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FxpruneError, match=r"pip install 'fxprune\[plot\]'"):
        run_plots(record())


def test_the_shell_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxprune.cli import main

    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in record("top1").rows))
    main(["report", str(tmp_path)])
    assert "53.00%" not in capsys.readouterr().out  # rows without an epoch are no epochs
    main(["report", str(tmp_path), "--html", str(tmp_path / "run.html")])
    assert "<svg" in (tmp_path / "run.html").read_text()
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "nothing")])
    error = capsys.readouterr().err
    assert error.startswith("fxprune: error: ")
    assert error.count("\n") == 1
