"""The page of the emitted model against the one written by hand: what speed/inference.py recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from benchmarks.report.pages import Page, Plot, read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]


def page() -> Page:
    """Return the page."""
    record = read_record("inference")
    rows: list[Row] = record["rows"]
    parts = [
        ratios(rows),
        "![emitted over by hand](inference.png)",
        f"`{record['command']}`; [inference.json](inference.json)",
    ]
    return Page("inference", "Inference", parts, [Plot("inference", lambda axes: draw_ratios(axes, rows))])


def ratios(rows: Sequence[Row]) -> str:
    """Return the table of ratios, one row for each allocator, mode and batch size."""
    headers = ["allocator", "mode", "batch", "emitted over by hand", "page faults a call", "compiled code"]
    return tabulate([_cells(row) for row in rows], headers=headers, tablefmt="github")


def _cells(row: Row) -> list[object]:
    found = _by_turn(row)
    faults = [f"{median(row[name]['page_faults']):,.0f}" for name in ("emitted", "by hand")]
    spread = f"{median(found):.3f} ({found[0]:.2f}-{found[-1]:.2f})"
    same = {True: "the same", False: "another"}[row["same_code"]] if "same_code" in row else ""
    return [row["allocator"], row["mode"], row["batch"], spread, " / ".join(faults), same]


def _by_turn(row: Row) -> list[float]:
    """Return the ratios of the two models' times, turn by turn, smallest first."""
    return sorted(a / b for a, b in zip(row["emitted"]["seconds"], row["by hand"]["seconds"], strict=True))


def draw_ratios(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the median and the range of the ratios of every row."""
    for number, row in enumerate(reversed(rows)):
        found = _by_turn(row)
        axes.plot([found[0], found[-1]], [number, number], color="tab:blue")
        axes.plot(median(found), number, "o", color="tab:blue")
    axes.axvspan(0.98, 1.02, color="lightgrey")
    labels = [f"{row['allocator']}, {row['mode']}, {row['batch']}" for row in reversed(rows)]
    axes.set(yticks=range(len(rows)), yticklabels=labels, xlabel="CPU time over that of the one by hand")
