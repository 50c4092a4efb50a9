"""The page of compile time and memory: what speed/compile.py recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy

from benchmarks.report.pages import Page, Plot, read_record, table
from benchmarks.speed.compile_record import APART, CIFAR, FLOOR, IMAGENET, OURS, PEER, VERIFIED, Row, steps, totals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FITTED = ("resnet110", "resnet218", "resnet434", "resnet1202")  # below, fixed costs are most of it
_HEADERS = (
    *("network", "nodes", "over symbolic_trace", "over Torch-Pruning", "verification's share", "peak MB"),
    *("with a copy", *APART, "symbolic_trace, s"),
)


def page() -> Page:
    """Return the page."""
    record = read_record("compile")
    rows: dict[str, Row] = record["rows"]
    ordered = [rows[name] for name in (*CIFAR, *IMAGENET) if name in rows]

    def draw(axes: Axes) -> None:
        draw_times(axes, [row for row in ordered if row["network"] in CIFAR])

    parts = [
        ratios(ordered),
        "![compile time against nodes](compile.png)",
        growth(rows),
        f"`{record['command']}`; [compile.json](compile.json)",
    ]
    return Page("compile", "Compile time", parts, [Plot("compile", draw, (5, 3.2))])


def ratios(rows: Sequence[Row]) -> str:
    """Return the table of ratios, one row a network."""
    return table([_cells(row) for row in rows], _HEADERS)


def _cells(row: Row) -> list[object]:
    ours, verified, floor = (median(totals(row, way)) for way in (OURS, VERIFIED, FLOOR))
    limit = 2 * row["weights_mb"] + 200
    return [
        row["network"],
        row["nodes"],
        over(row, OURS, FLOOR),
        over(row, OURS, PEER) if totals(row, PEER) else row["peer_problem"],
        f"{(verified - ours) / verified:.0%}",
        f"{row['peak_mb']:.0f} of {limit:.0f}",
        f"{row['peak_with_copy_mb']:.0f}",
        *(f"{median(steps(row, OURS)[step]) / floor:.1f}" for step in APART),
        f"{floor:.3f}",
    ]


def over(row: Row, way: str, base: str) -> str:
    """Return the median and the range of the ratios of two ways, turn by turn."""
    pairs = zip(totals(row, way), totals(row, base), strict=False)
    found = sorted(a / b for a, b in pairs)
    if not found:
        return "-"
    return f"{median(found):.2f} ({found[0]:.2f}-{found[-1]:.2f})"


def growth(rows: dict[str, Row]) -> str:
    """Return how every step grows with the number of nodes of CIFAR ResNets."""
    fitted = [rows[name] for name in _FITTED if name in rows]
    if len(fitted) < 2:
        return "growth needs two of " + ", ".join(_FITTED)
    medians = {step: [median(steps(row, OURS)[step]) for row in fitted] for step in steps(fitted[0], OURS)}
    lines = [[step, f"{exponent(fitted, values):.2f}"] for step, values in medians.items()]
    for way in (OURS, VERIFIED, PEER, FLOOR):
        done = [row for row in fitted if totals(row, way)]
        if len(done) > 1:
            lines.append([f"all of {way}", f"{exponent(done, [median(totals(row, way)) for row in done]):.2f}"])
    lines.append(["peak memory", f"{exponent(fitted, [row['peak_mb'] for row in fitted]):.2f}"])
    return table(lines, ["step", "exponent"])


def exponent(rows: Sequence[Row], values: Sequence[float]) -> float:
    """Return the exponent e of the fit values ~ nodes ** e."""
    nodes = [row["nodes"] for row in rows]
    return float(numpy.polyfit(numpy.log(nodes), numpy.log(values), 1)[0])


def draw_times(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the time of every way against the number of nodes."""
    for way, mark in ((PEER, "s"), (VERIFIED, "v"), (OURS, "o"), (FLOOR, "x")):
        done = [row for row in rows if totals(row, way)]
        seconds = [median(totals(row, way)) for row in done]
        axes.plot([row["nodes"] for row in done], seconds, marker=mark, label=way)
    axes.set(xscale="log", yscale="log", xlabel="nodes (CIFAR ResNet-20 ... 1202)", ylabel="CPU seconds")
    axes.legend(fontsize="small")
