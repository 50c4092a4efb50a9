"""A run read back from its folder: whole, unfinished, old, damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fxprune import FxpruneWarning
from fxprune.errors import LoadError
from fxprune.run_record import read_run

ROWS: list[dict[str, Any]] = [
    {"step": 50, "loss": 2.0, "layers_left": 3, "macs_left": 1.0, "scales": {"a": 1.0, "b": 1.0, "c": 1.0}},
    {"step": 60, "epoch": 1, "loss": 1.5, "top1": 0.5, "layers_left": 3, "macs_left": 1.0, "scales": {"b": 0.5}},
    {"step": 100, "loss": 1.0, "layers_left": 2, "macs_left": 0.7, "scales": {"b": 0.0}},
    {"step": 120, "epoch": 2, "loss": 0.9, "top1": 0.75, "layers_left": 2, "macs_left": 0.7, "scales": {},
     "params_left": 0.6, "seconds": 3.5},
]  # fmt: skip
REPORT = {
    "model": "NET", "data": "digits", "macs_before": 1000, "macs_after": 700, "params_before": 90, "params_after": 60,
    "accuracy_before": 0.8, "accuracy_after": 0.75, "layers_removed": ["b"], "layers_removable": 3,
    "latency_ms": {"1": {"before": 2.0, "after": 1.5}},
}  # fmt: skip


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_finished_run(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", *ROWS)
    write(tmp_path, "report.json", REPORT)
    write(tmp_path, "finetune.jsonl", {"step": 60, "epoch": 1, "loss": 0.5, "top1": 0.8})
    run = read_run(tmp_path)
    assert run.series("layers_left") == ([50, 60, 100, 120], [3, 3, 2, 2])
    assert run.series("top1") == ([60, 120], [0.5, 0.75])
    assert run.finetuning_series("top1") == ([180], [0.8])
    assert run.scales() == ([50, 60, 100, 120], {"a": [1] * 4, "b": [1, 0.5, 0, 0], "c": [1] * 4})
    text = " ".join(str(run).split())
    for line in (
        f"{tmp_path}: model NET, data digits, finished",
        "1 60 1.500 50.00% 3 100.0%",
        "2 120 0.900 75.00% 2 70.0% 60.0% 3.5",
        "1 fine-tuning 60 0.500 80.00%",
        "held-out top-1 80.00% 75.00%",
        "ms at batch 1 (before: unpruned, norms folded) 2.00 1.50",
        "1 of 3 removable layers are gone",
        "1 of 3 scales are 0 at step 120",
    ):
        assert line in text, text


def test_a_run_of_channels_tells_how_many_are_left(tmp_path: Path) -> None:
    rows = [{("channels_left" if name == "layers_left" else name): one for name, one in row.items()} for row in ROWS]
    write(tmp_path, "metrics.jsonl", *rows)
    channels = {"channels_removable": 3, "channels_removed": 1, "removed": {}, "removable": {}}
    write(tmp_path, "report.json", {**REPORT, **channels, "settings": {"target_macs": 0.75}})
    text = " ".join(str(read_run(tmp_path)).split())
    for line in (
        "layers channels MACs",
        "2 120 0.900 75.00% 2 70.0%",
        "1 of 3 scales, of channels the means of groups, are 0 at step 120",
        "layers and chunks of channels go as a whole",
        "1 of 3 channels are gone",
    ):
        assert line in text, text


def test_layers_in_removed_branches_and_opaque_parts_are_told(tmp_path: Path) -> None:
    more = {"opaque": ["roi"], "activation_bytes_before": 20, "activation_bytes_after": 10}
    write(tmp_path, "metrics.jsonl", *ROWS)
    write(tmp_path, "report.json", {**REPORT, **more, "layers_removed": ["b", "b.0", "b.1"]})
    text = " ".join(str(read_run(tmp_path)).split())
    assert "peak activation bytes, opaque parts left out 20 10" in text
    assert "1 of 3 scales are 0 at step 120; other layers that are gone lie in branches whose scale is" in text


def test_an_unfinished_run(tmp_path: Path) -> None:
    write(tmp_path, "run.json", {"model": "NET", "data": "digits"})
    assert "not finished\n\nno epoch is finished" in str(read_run(tmp_path))
    write(tmp_path, "metrics.jsonl", *ROWS[:3])
    assert "model NET, data digits, not finished at step 100" in str(read_run(tmp_path))


def test_a_run_of_an_earlier_version_has_no_scales(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", *({k: v for k, v in row.items() if k != "scales"} for row in ROWS))
    run = read_run(tmp_path)
    assert run.scales() == ([], {})
    assert "scales were not recorded" in str(run)


def test_damaged_lines_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", *ROWS)
    good = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(b'[1]\n\xff\xfe\n{"loss": 1}\n' + good + b'{"step": 1')
    with pytest.warns(FxpruneWarning, match=r"metrics.jsonl: damaged lines are left out \(4\)"):
        assert [row["step"] for row in read_run(tmp_path).rows] == [50, 60, 100, 120]


def test_a_layer_whose_first_row_is_lost_is_unknown_until_it_changes(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", *ROWS[1:])
    _, scales = read_run(tmp_path).scales()
    assert scales == {"b": [0.5, 0, 0]}
    write(tmp_path, "metrics.jsonl", {"step": 1, "scales": {"a": 1.0}}, ROWS[1])
    _, scales = read_run(tmp_path).scales()
    assert math.isnan(scales["b"][0])
    assert scales["b"][1:] == [0.5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.txt", "", "is not the folder of a run: give the one that"),
        ("report.json", "{", "report.json is damaged"),
        ("report.json", "[]", "holds no object"),
        ("report.json", '{"macs_before": "many"}', "is not the report of a run"),
        ("run.json", "nothing", "run.json is damaged"),
    ],
)
def test_what_is_no_run(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LoadError, match=message):
        read_run(tmp_path)
    with pytest.raises(LoadError, match="is not a folder"):
        read_run(tmp_path / "nowhere")


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    rows = [{"step": n * 10, "epoch": n, "loss": 1.0, "top1": 0.5} for n in range(1, 106)]
    write(tmp_path, "metrics.jsonl", *rows)
    lines = [line for line in str(read_run(tmp_path)).splitlines() if "50.00%" in line]
    assert 10 < len(lines) <= 21
    assert lines[-1].startswith("105 ")
