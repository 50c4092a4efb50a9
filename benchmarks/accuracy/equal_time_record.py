"""The record of what equal_time.py worked out: each arm, and how far "both" is above every other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from benchmarks.accuracy.paired import difference, unpacked

BOTH = "both"
MOST, LEAST = 1.02, 0.93
"""What the time of a network may be of its limit, and shall be at least."""


def record(rows: Mapping[Any, dict[str, Any]], network: str, ours: Collection[str], peer: str) -> dict[str, Any]:
    """Return the record; a row's "both_above" is the test top-1 of both less its own, on the same images."""
    if not rows:
        raise SystemExit(f"no row of {network} was worked out: run without --table first")
    mine = [found["clock"]["ratio"] / row.left for row, found in rows.items() if row.arm in ours]
    hit = sum(LEAST <= share <= MOST for share in mine)
    return {
        "network": network,
        "rows": [_told(row, found, rows) for row, found in rows.items()],
        "on_target": {"hit": hit, "of": len(mine), "shares": sorted(mine), "most": MOST, "least": LEAST},
        "peer": peer,
    }


def _told(row: Any, found: dict[str, Any], rows: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    told = {**row._asdict(), **{name: value for name, value in found.items() if name != "correct"}}
    both = rows.get(row._replace(arm=BOTH))
    if both is not None and row.arm != BOTH:
        right = [[unpacked(one["correct"], one["images"])] for one in (both, found)]
        above, error = difference(*right)
        told["both_above"] = {"difference": above, "standard_error": error}
    return told
