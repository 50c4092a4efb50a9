"""Several targets of latency in one run, on the way down: each network in a folder of its own, all on one page.

out/latency-0.8/  out/latency-0.6/  ...          finished runs, as fxprune prune writes them
out/frontier.json  out/frontier.html             top-1 over milliseconds, each point a link to what was changed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fxprune.errors import FxpruneValueError
from fxprune.files import write_json, write_text
from fxprune.render.frontier_page import frontier_page
from fxprune.run_record import run_title

_FILE, _PAGE = "frontier.json", "frontier.html"


class Stop(NamedTuple):
    """A finished run on the way down: the share of the time that was asked for, its folder, its report."""

    share: float
    folder: Path
    report: Mapping[str, Any]


def stops(shares: Sequence[float]) -> list[float]:
    """Return the shares from the largest down; raises FxpruneValueError if one is none, or comes twice."""
    for share in shares:
        if not 0 < share < 1:
            raise FxpruneValueError(f"a frontier is of shares of the time, above 0 and below 1; got {share:g}")
    if len(set(shares)) < len(shares):
        raise FxpruneValueError(f"a frontier has each share once; got {', '.join(f'{one:g}' for one in shares)}")
    return sorted(shares, reverse=True)


def folder_of(out: Path, share: float) -> Path:
    """Return where the network of a share is written."""
    return out / f"latency-{share:g}"


def write_frontier(out: Path, done: Sequence[Stop]) -> dict[str, Any]:
    """Write frontier.json and the page of what is done so far; return what the first holds."""
    first = done[0].report
    told = {
        "model": first.get("model"),
        "data": first.get("data"),
        "conditions": first["latency"]["conditions"],
        "points": [_unpruned(first), *map(_point, done)],
    }
    write_json(out / _FILE, told)
    write_text(out / _PAGE, frontier_page(told, title=run_title(told)))
    return told


def _unpruned(report: Mapping[str, Any]) -> dict[str, Any]:
    return {"target": None, "folder": None, "moved": None, **_side(report, "before")}


def _point(one: Stop) -> dict[str, Any]:
    stages = one.report.get("stages")
    moved = None if stages is None else stages[one.report["kept_stage"]]["moved"]
    return {"target": one.share, "folder": one.folder.name, "moved": moved, **_side(one.report, "after")}


def _side(report: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return what the report of a run tells of the network before or after it."""
    latency = report["latency"]
    return {
        "ms": latency[f"{side}_ms"],
        "spread": latency[f"{side}_spread"],
        "predicted_ms": latency[f"predicted_{side}_ms"],
        "top1": report[f"accuracy_{side}"],
        "macs": report[f"macs_{side}"],
        "params": report[f"params_{side}"],
    }
