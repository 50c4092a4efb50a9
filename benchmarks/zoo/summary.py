"""The zoo's rows as results/zoo.json."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from importlib.metadata import version
from statistics import median
from typing import Any

from benchmarks import RESULTS
from benchmarks.zoo.models import GROUPS

Row = dict[str, Any]


def summarize(ours: list[Row]) -> None:
    """Write the summary of fxprune's rows."""
    result = {
        "command": "python -m benchmarks.zoo.run",
        "commits": sorted({row["commit"] for row in ours}),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads a model": 1},
        "groups": {group: _group(group, ours) for group in GROUPS if any(r["kind"] == group for r in ours)},
    }
    (RESULTS / "zoo.json").write_text(json.dumps(result, indent=1) + "\n")


def _group(group: str, ours: list[Row]) -> dict[str, Any]:
    mine = [row for row in ours if row["kind"] == group]
    good = [row for row in mine if row["status"] == "ok"]
    return {
        "models": len(mine),
        **{
            status: sum(row["status"] == status for row in mine)
            for status in ("ok", "declined", "failed", "different")
        },
        "every_conv_visible": sum(
            row.get("hidden_convs") == 0 and row["visible_convs"] >= row["conv_modules"] for row in good
        ),
        "not_emitted": [row["model"] for row in good if "not_emitted" in row],
        "tiers": dict(Counter(row["tier"] for row in mine if "tier" in row)),
        "largest_difference": max((difference for row in good for difference in _differences(row)), default=None),
        "other_size": dict(Counter(_verdict(row["other_size"]) for row in good)),
        "without_effect": [row["model"] for row in good if row["scaled_to_zero"] and row["effect"] < 1e-6],
        "median_removable_share": median(row["removable_share"] for row in good) if good else None,
        "needless_nodes": sum(sum(row["needless"].values()) for row in good),
        "median_seconds": median(row["seconds"]["total"] for row in good) if good else None,
        "largest_peak_mb": max((row["peak_mb"] for row in mine if "peak_mb" in row), default=None),
    }


def _differences(row: Row) -> list[float]:
    """Return the differences at the traced shape, and where the model runs there at another batch and image size."""
    found = (row["difference"], row["other_batch"], row["other_size"])
    return [one for one in found if not isinstance(one, str)]


def _verdict(found: float | str) -> str:
    return found if isinstance(found, str) else "equal"
