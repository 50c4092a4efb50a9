"""The page of what cutting channels costs: what speed/channels.py recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.report.compile import exponent
from benchmarks.report.pages import Page, read_record, table
from benchmarks.speed.compile_record import Row

CIFAR = ("resnet56", "resnet110", "resnet218", "resnet434", "resnet1202")
IMAGENET = ("resnet50", "efficientnet_v2_m", "convnext_large", "swin_t")
_STEPS = ("analysis", "indices", "ratio")
_MEMORY = ("read", "write")
"""What any cut must do: read all weights once, write once what is left."""
_HEADERS = (
    *("network", "nodes", "weights, MB", "left, MB"),
    *_STEPS,
    *("read and write alone", "peak MB", "symbolic_trace, s"),
)


def page() -> Page:
    """Return the page."""
    record = read_record("channels")
    rows: dict[str, Row] = record["rows"]
    ordered = [rows[name] for name in (*CIFAR, *IMAGENET) if name in rows]
    parts = [ratios(ordered), growth([row for row in ordered if row["network"] in CIFAR])]
    return Page(
        "channels", "What cutting channels costs", [*parts, f"`{record['command']}`; [channels.json](channels.json)"]
    )


def ratios(rows: Sequence[Row]) -> str:
    """Return the table of times over symbolic_trace's, one row a network: of the fastest turns, and the medians."""
    return table([_cells(row) for row in rows], _HEADERS)


def _cells(row: Row) -> list[object]:
    seconds, floor = row["seconds"], min(row["seconds"]["symbolic_trace"])
    return [
        row["network"],
        row["nodes"],
        f"{row['weights_mb']:.0f}",
        f"{row['left_mb']:.0f}",
        *(f"{min(seconds[step]) / floor:.2f} ({_median(row, step):.2f})" for step in _STEPS),
        f"{sum(min(seconds[step]) for step in _MEMORY) / floor:.2f}",
        f"{row['peak_mb']:.0f} of {2 * row['weights_mb'] + 200:.0f}",
        f"{floor:.3f}",
    ]


def _median(row: Row, step: str) -> float:
    pairs = zip(row["seconds"][step], row["seconds"]["symbolic_trace"], strict=True)
    return float(median(one / floor for one, floor in pairs))


def growth(rows: Sequence[Row]) -> str:
    """Return how every step grows with the number of nodes of CIFAR ResNets."""
    steps = ("symbolic_trace", *_STEPS)
    lines = [[step, f"{exponent(rows, [min(row['seconds'][step]) for row in rows]):.2f}"] for step in steps]
    return table(lines, ["step", "exponent"])
