"""The record of what untrained.py worked out: means over checkpoints, and differences on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.accuracy.paired import difference, unpacked
from benchmarks.provenance import provenance

NUMBERS = ("macs_left", "top1_choosing", "top1")


def record(rows: Mapping[Any, dict[str, Any]], network: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return the record; a row's "against" is its test top-1 less that of the unpruned network."""
    if not rows:
        raise SystemExit(f"no row of {network} was worked out: run without --table first")
    whole = {row.checkpoint: found for row, found in rows.items() if row.stage == "unpruned"}
    kinds = list(dict.fromkeys(row._replace(checkpoint="") for row in rows))
    return {
        **provenance(),
        "settings": next(iter(rows.values()))["settings"],
        "checkpoints": {name: {key: found[key] for key in NUMBERS} for name, found in whole.items()},
        "stages": list(stages),
        "rows": [_told(kind, rows, whole) for kind in kinds if kind.stage != "unpruned"],
    }


def _told(kind: Any, rows: Mapping[Any, dict[str, Any]], whole: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    mine = {row.checkpoint: found for row, found in rows.items() if row._replace(checkpoint="") == kind}
    told: dict[str, Any] = {name: value for name, value in kind._asdict().items() if name != "checkpoint"}
    told |= {name: mean(found[name] for found in mine.values()) for name in NUMBERS}
    told["by_checkpoint"] = {one: {name: found[name] for name in NUMBERS} for one, found in mine.items()}
    counts = [len(found["correct"]) * 4 for found in mine.values()]
    right = [
        [unpacked(each["correct"], count) for each, count in zip(found, counts, strict=True)]
        for found in (mine.values(), [whole[one] for one in mine])
    ]
    against, error = difference(*right)
    return {**told, "against_unpruned": {"difference": against, "standard_error": error}}
