"""The page of a training run: plots of what was measured, tables of the rest."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
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
            "channels_left": 9,
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
    assert ">channels left</text>" in run_plots(record("channels_left"))
    assert "channels left" not in svg
    assert run_plots(record()) == ""
    assert svg == run_plots(record("top1", "layers_left", "macs_left", "scales"))


def test_the_page_opens_without_script_or_network(opened: Open) -> None:
    report = {
        "macs_before": 10, "macs_after": 5, "params_before": 4, "params_after": 2, "accuracy_before": 0.5,
        "accuracy_after": 0.25,
    }  # fmt: skip
    tab = opened(run_page(record("top1", "layers_left", "macs_left", "scales", report=report)))
    assert tab.locator("h1").inner_text() == "NET<i>: training"
    text = tab.locator("main").inner_text()
    assert "25.00%" in text
    assert tab.locator("svg").count() == 4
    cells = tab.locator("table").nth(1).locator("tbody tr").all_inner_texts()
    assert [cell.split("\t") for cell in cells] == [["first", "0", "2"], ["second$x$<b>", "0.8", ""]]
    assert tab.evaluate("document.scripts.length") == 0


def test_the_loss_is_plotted_once_an_epoch() -> None:
    rows = tuple(
        {"step": step, "loss": 1.0} | ({"epoch": step // 2} if step % 2 == 0 else {}) for step in range(1, 7)
    )
    run = RunRecord(Path("r"), {}, rows, ({"step": 2, "epoch": 1, "loss": 0.5},), None)
    assert run.series("loss", epochs=True) == ([2, 4, 6], [1.0, 1.0, 1.0])
    assert run.finetuning_series("loss", epochs=True) == ([8], [0.5])
    assert run.steps_per_epoch == 2
    svg = run_plots(run)
    assert ">training loss, mean of each epoch</text>" in svg
    assert ">fine-tuning</text>" in svg
    assert ">epoch</text>" in svg
    assert ">optimizer step</text>" in run_plots(replace(run, rows=({"step": 1, "top1": 0.5},), finetuning=()))


def test_axes_of_counts_have_whole_numbers() -> None:
    svg = run_plots(record("epoch", "layers_left"))
    ticks = re.findall(r">([\d.]+)</text>", svg)
    assert len(ticks) > 3
    assert all(tick.isdigit() for tick in ticks)


def in_a_branch(report: dict[str, Any] | None = None, **last: Any) -> RunRecord:
    """Return a run in which a branch went, and with it a conv whose own scale did not."""
    scales = {"block.branch_scale": 1.0, "block.conv": 0.5, "stem": 0.9}
    rows = (
        {"step": 1, "scales": scales},
        {"step": 2, "scales": {"block.branch_scale": 0.0}, **last},
        {"step": 3, "scales": {}},
    )
    totals = {f"{name}_{side}": 1 for name in ("macs", "params", "accuracy") for side in ("before", "after")}
    return RunRecord(Path("r"), {}, rows, (), None if report is None else {**totals, **report})


@pytest.mark.parametrize(
    ("run", "since"),
    [
        (in_a_branch(gone=["block.branch_scale", "block.conv"]), "2, with a branch"),
        (in_a_branch({"layers_removed": ["block.branch_scale", "block.conv"]}), "with a branch"),
        (in_a_branch({"layers_removed": ["block.conv"], "settings": {"strength": 1e-3}}),
         "with a branch, or cut at the end"),
    ],
)  # fmt: skip
def test_layers_that_went_with_a_branch_are_gone(run: RunRecord, since: str) -> None:
    svg = run_plots(run)
    for label in ("stays", "reached zero", f"gone {since.removeprefix('2, ')}"):
        assert f">{label}</text>" in svg
    text = run_page(run)
    rows = (("block.branch_scale", "0", "2"), ("block.conv", "0.5", since), ("stem", "0.9", ""))
    assert "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows) in text


def test_legends_lie_on_no_line() -> None:
    """They stand below the axes: the lowest tick of the axis is above them."""
    svg = run_plots(in_a_branch(gone=["block.conv"]))
    legend = svg[svg.index("legend_1") :]
    heights = [float(y) for y in re.findall(r"translate\([\d.]+ ([\d.]+)\)", legend)]
    heights += [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)"', legend)]
    axis = [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)"', svg[: svg.index("legend_1")])]
    assert heights
    assert min(heights) > max(axis)


@pytest.mark.parametrize("width", [360, 1280])
def test_a_phone_can_read_it(opened: Open, width: int) -> None:
    report = {
        "macs_before": 10, "macs_after": 5, "params_before": 4, "params_after": 2, "accuracy_before": 0.5,
        "accuracy_after": 0.25, "model": "a.module.with.a.rather.long.name:and_a_factory_of_it",
        "data": "imagefolder:/x",
    }  # fmt: skip
    run = record("epoch", "top1", "layers_left", "macs_left", "scales", report=report)
    tab = opened(run_page(replace(run, folder=Path("a" * 80))))
    tab.set_viewport_size({"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator(".scroll").evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")
    heights = tab.locator("svg text").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert min(heights) >= 11
    ids = tab.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(set(ids)) == len(ids)


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
