"""What a run leaves in its folder, read back or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny

import fxprune
from fxprune import passes
from fxprune.errors import LoadError
from fxprune.render.folder import read_about, read_diff, write_diff
from fxprune.render.measured import measured_in, not_measured


def test_written_and_read_back(tmp_path: Path) -> None:
    graph = tiny()
    result = fxprune.Pipeline([passes.FoldBatchNorm()])(graph)
    found = write_diff(tmp_path, graph, result.graph_module, [result])
    assert found == result.diff
    assert (tmp_path / "diff.txt").read_text() == f"{found}\n"
    assert read_diff(tmp_path) == found
    assert read_diff(tmp_path / "diff.json") == found


def test_an_unfinished_run_has_no_diff_yet(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(LoadError, match="is not finished: its diff is written at the end; fxprune report tells"):
        read_diff(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no diff.json; give a second model"),
        ("", "cut short"),
        ('{"format": "fxprune-diff", "ver', "cut short"),
        ("\0\1\2", "is no diff"),
        ("[]", "no diff of fxprune's"),
        ("[" * 100_000, "is no diff"),
        (json.dumps({"format": "fxprune-diff", "version": 9}), "update fxprune"),
        (json.dumps({"format": "fxprune-diff", "version": 1}), "damaged: lacks 'changes'"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "diff.json").write_text(content)
    with pytest.raises(LoadError, match=message) as error:
        read_diff(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


REPORT = {"model": "torchvision:resnet18", "data": "digits<b>", "accuracy_before": 0.5, "accuracy_after": 0.25}


def test_pages_are_called_by_model_and_data_and_not_by_a_folder(tmp_path: Path) -> None:
    graph = tiny()
    result = fxprune.Pipeline([passes.FoldBatchNorm()])(graph)
    for about, title in ((REPORT, "torchvision:resnet18 on digits&lt;b&gt;"), ({"model": "m"}, "m"), ({}, "TinyNet")):
        write_diff(tmp_path, graph, result.graph_module, [result], about)
        page = (tmp_path / "diff.html").read_text()
        assert f"<title>{title}</title>" in page
        assert ("held-out top-1" in page) == ("accuracy_before" in about)
        assert read_diff(tmp_path) == result.diff


def test_what_is_known_of_a_run_is_read_from_its_report_or_its_diff(tmp_path: Path) -> None:
    graph = tiny()
    result = fxprune.Pipeline([passes.FoldBatchNorm()])(graph)
    write_diff(tmp_path, graph, result.graph_module, [result], REPORT)
    known = read_about(tmp_path)
    assert (known["model"], known["data"]) == ("torchvision:resnet18", "digits<b>")
    assert measured_in(known) == ()
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert [one.after for one in measured_in(read_about(tmp_path / "diff.json"))] == [0.25]
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(LoadError, match="damaged"):
        read_about(tmp_path)


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"accuracy_before": "0.5", "accuracy_after": 1, "latency_ms": {"1": 3}},
        {"latency_ms": [1], "activation_bytes_before": None, "activation_bytes_after": 1},
        {"accuracy_before": float("nan"), "accuracy_after": 0.5},
    ],
)
def test_what_a_report_lacks_is_not_made_up(report: dict[str, object]) -> None:
    assert measured_in(report) == ()
    assert not_measured(measured_in(report)) == ["top-1", "ms", "memory"]
