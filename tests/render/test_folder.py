"""What a run leaves in its folder, read back or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny

import fxprune
from fxprune import passes
from fxprune.errors import LoadError
from fxprune.render.folder import read_diff, write_diff


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
