"""Several targets in one run: which, where, and what is told of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fxprune.errors import FxpruneValueError
from fxprune.training.frontier import Stop, folder_of, stops, write_frontier


def report(after: float) -> dict[str, Any]:
    sides = {"before": 1.0, "after": after}
    latency = {"conditions": "eager"}
    for side, share in sides.items():
        latency |= {f"{side}_ms": 4 * share, f"{side}_spread": 0.01, f"predicted_{side}_ms": 4.1 * share}  # type: ignore[dict-item]
    costs = {
        f"{name}_{side}": 100 * share for side, share in sides.items() for name in ("macs", "params", "accuracy")
    }
    stages = {"cut": {"moved": 0.5}, "repaired": {"moved": 0.1}}
    return {"model": "M", "data": "D", "latency": latency, "stages": stages, "kept_stage": "repaired", **costs}


def test_targets_come_from_the_largest_down() -> None:
    assert stops([0.4, 0.8, 0.6]) == [0.8, 0.6, 0.4]
    for wrong, why in (
        ([1.0], "below 1; got 1"),
        ([0.5, 0.0], "got 0"),
        ([0.5, 0.5], "each share once; got 0.5, 0.5"),
    ):
        with pytest.raises(FxpruneValueError, match=why):
            stops(wrong)


def test_all_are_on_one_page(tmp_path: Path) -> None:
    done = [Stop(share, folder_of(tmp_path, share), report(share)) for share in (0.8, 0.5)]
    told = write_frontier(tmp_path, done)
    assert json.loads((tmp_path / "frontier.json").read_text()) == told
    assert [one["target"] for one in told["points"]] == [None, 0.8, 0.5]
    assert [one["ms"] for one in told["points"]] == [4.0, 3.2, 2.0]
    assert told["points"][2] == {
        **{"target": 0.5, "folder": "latency-0.5", "moved": 0.1, "ms": 2.0, "spread": 0.01, "predicted_ms": 2.05},
        **{"top1": 50.0, "macs": 50.0, "params": 50.0},
    }
    assert 'href="latency-0.5/diff.html"' in (tmp_path / "frontier.html").read_text()
