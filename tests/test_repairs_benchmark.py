"""The runner that compares repairs: its mask, and its record of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small

from benchmarks.accuracy import repairs
from benchmarks.accuracy.paired import difference, packed
from benchmarks.accuracy.repair_arms import L1TimesL1
from benchmarks.accuracy.rows import checkpoint_name, read_rows


def of_rows(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.weight.abs().flatten(1).sum(1)
    return found


def of_columns(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.weight.abs().transpose(0, 1).flatten(1).sum(1)
    return found


def test_l1_times_l1_by_hand() -> None:
    model, graph, _, _ = small()
    found = scores(graph, L1TimesL1())
    with torch.no_grad():
        middle = of_rows(model.three) * of_columns(model.head)
        stream = (of_rows(model.one) + of_rows(model.two)) * (of_columns(model.two) + of_columns(model.three))
    assert found[MIDDLE] == pytest.approx(middle.numpy())
    assert found[STREAM] == pytest.approx(stream.numpy())


def test_the_record_has_means_and_differences_to_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "provenance", dict)
    generator = np.random.default_rng(0)
    right = {(one, repair): generator.random(40) < 0.7 for one in "ab" for repair in ("ours", "CaP")}
    file = tmp_path / "rows.jsonl"
    lines = []
    for (one, repair), which in right.items():
        row = repairs.Row(one, "L1 x L1", 0.5, repair, 64, False)
        content = {"top1": float(which.mean()), "correct": packed(which), "settings": {"test_images": 40}}
        lines.append(json.dumps({**row._asdict(), **content}))
    file.write_text("\n".join(lines) + "\n")
    found = repairs.record(read_rows(file, repairs.Row), "resnet20")
    ours, cap = found["rows"]
    assert found["checkpoints"] == ["a", "b"]
    assert "against_ours" not in ours
    assert cap["top1"] == pytest.approx(np.mean([right["a", "CaP"].mean(), right["b", "CaP"].mean()]))
    wanted = difference(*([right[one, repair] for one in "ab"] for repair in ("CaP", "ours")))
    assert tuple(cap["against_ours"].values()) == pytest.approx(wanted)
    assert read_rows(tmp_path / "none.jsonl", repairs.Row) == {}


def test_rows_tell_checkpoints_of_the_same_name_apart(tmp_path: Path) -> None:
    weights = [tmp_path / "runs" / f"seed{seed}" / "weights.pt" for seed in (0, 1)]
    assert [checkpoint_name(one, tmp_path / "runs") for one in weights] == ["seed0/weights", "seed1/weights"]
    assert checkpoint_name(tmp_path / "mine.pt", tmp_path / "runs") == "mine"
