"""Compile time and memory, against torch.fx.symbolic_trace alone and against Torch-Pruning.

    pip install -e '.[bench]'
    python benchmarks/compile.py                          # goes on where it stopped; about ten minutes in all
    python benchmarks/compile.py --only resnet110 --again # one network, measured again
    python benchmarks/compile.py --summarize              # tables and plot from what was measured
    python benchmarks/compile.py --smoke                  # one small network; exits 1 if a step fails, writes nothing

Compiling is: trace, insert both kinds of scales, remove the half of the layers that has scale zero, fuse, fold,
simplify, strip. Each network has processes of its own (compile_steps.py), for time and for peak memory: with the
weights shared, as they are for the time, and with trace()'s own copy of them, its default. Writes
results/compile.json and results/compile.png, and prints the tables of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
from compile_steps import CIFAR, FLOOR, IMAGENET, OURS, PEER, VERIFIED
from provenance import provenance
from tabulate import tabulate

from fxprune.files import write_json

HERE = Path(__file__).parent
RESULT = HERE / "results" / "compile.json"
_APART = ("diff", "emit")  # no part of compiling
_FITTED = ("resnet110", "resnet218", "resnet434", "resnet1202")  # below, fixed costs are most of it

Row = dict[str, Any]


def main() -> None:
    """Measure the networks that have no row yet, and summarize."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CIFAR, *IMAGENET], default=[*CIFAR, *IMAGENET])
    parser.add_argument("--again", action="store_true", help="measure what has a row too")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="for the turns of one network, two at least")
    parser.add_argument("--summarize", action="store_true", help="measure nothing")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        print(ratios([measured("resnet20", 2, 0)]))
        return
    rows: dict[str, Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for name in [] if arguments.summarize else arguments.only:
        if name not in rows or arguments.again:
            rows[name] = measured(name, arguments.turns, arguments.seconds)
            write_json(RESULT, {**provenance("torch-pruning"), "rows": rows})
            print(ratios([rows[name]]), flush=True)
    ordered = [rows[name] for name in (*CIFAR, *IMAGENET) if name in rows]
    print(f"{ratios(ordered)}\n\n{growth(rows)}")
    plot(ordered)


def measured(name: str, turns: int, seconds: float) -> Row:
    """Measure one network in processes of its own."""
    row: Row = {}
    for what in ("time", "memory", "memory-with-copy"):
        command = [sys.executable, str(HERE / "compile_steps.py"), what, name]
        command += ["--turns", str(turns), "--seconds", str(seconds)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        row |= json.loads(done.stdout)
    return row


def totals(row: Row, way: str, unit: str = "cpu") -> list[float]:
    """Return what compiling took in a way, turn by turn; an empty list if it failed."""
    steps = [values for step, values in row["seconds"].get(f"{way}: {unit}", {}).items() if step not in _APART]
    return [sum(turn) for turn in zip(*steps, strict=True)]


def over(row: Row, way: str, base: str) -> str:
    """Return the median and the range of the ratios of two ways, turn by turn."""
    pairs = zip(totals(row, way), totals(row, base), strict=False)
    found = sorted(a / b for a, b in pairs)
    if not found:
        return "-"
    return f"{statistics.median(found):.2f} ({found[0]:.2f}-{found[-1]:.2f})"


def ratios(rows: list[Row]) -> str:
    """Return the table of ratios, one row a network."""
    lines = []
    for row in rows:
        ours, verified = (statistics.median(totals(row, way)) for way in (OURS, VERIFIED))
        limit = 2 * row["weights_mb"] + 200
        floor = statistics.median(totals(row, FLOOR))
        lines.append(
            [
                row["network"],
                row["nodes"],
                over(row, OURS, FLOOR),
                over(row, OURS, PEER) if totals(row, PEER) else row["peer_problem"],
                f"{(verified - ours) / verified:.0%}",
                f"{row['peak_mb']:.0f} of {limit:.0f}",
                f"{row['peak_with_copy_mb']:.0f}",
                *(f"{statistics.median(row['seconds'][f'{OURS}: cpu'][step]) / floor:.1f}" for step in _APART),
                f"{floor:.3f}",
            ]
        )
    headers = [
        "network",
        "nodes",
        "over symbolic_trace",
        "over Torch-Pruning",
        "verification's share",
        "peak MB",
        "with a copy",
        *_APART,
    ]
    return tabulate(lines, headers=[*headers, "symbolic_trace, s"], tablefmt="github", disable_numparse=True)


def exponent(rows: list[Row], values: list[float]) -> float:
    """Return the exponent e of the fit values ~ nodes ** e."""
    nodes = [row["nodes"] for row in rows]
    return float(numpy.polyfit(numpy.log(nodes), numpy.log(values), 1)[0])


def growth(rows: dict[str, Row]) -> str:
    """Return how every step grows with the number of nodes of CIFAR ResNets."""
    fitted = [rows[name] for name in _FITTED if name in rows]
    if len(fitted) < 2:
        return "growth needs two of " + ", ".join(_FITTED)
    steps = fitted[0]["seconds"][f"{OURS}: cpu"]
    medians = {s: [statistics.median(row["seconds"][f"{OURS}: cpu"][s]) for row in fitted] for s in steps}
    lines = [[step, f"{exponent(fitted, values):.2f}"] for step, values in medians.items()]
    for way in (OURS, VERIFIED, PEER, FLOOR):
        done = [row for row in fitted if totals(row, way)]
        if len(done) > 1:
            seconds = [statistics.median(totals(row, way)) for row in done]
            lines.append([f"all of {way}", f"{exponent(done, seconds):.2f}"])
    lines.append(["peak memory", f"{exponent(fitted, [row['peak_mb'] for row in fitted]):.2f}"])
    return tabulate(lines, headers=["step", "exponent"], tablefmt="github", disable_numparse=True)


def plot(rows: list[Row]) -> None:
    """Draw the time of every way against the number of nodes, CIFAR ResNets."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    cifar = [row for row in rows if row["network"] in CIFAR]
    for way, mark in ((PEER, "s"), (VERIFIED, "v"), (OURS, "o"), (FLOOR, "x")):
        done = [row for row in cifar if totals(row, way)]
        seconds = [statistics.median(totals(row, way)) for row in done]
        axes.plot([row["nodes"] for row in done], seconds, marker=mark, label=way)
    axes.set(xscale="log", yscale="log", xlabel="nodes (CIFAR ResNet-20 ... 1202)", ylabel="CPU seconds")
    axes.legend(fontsize="small")
    figure.savefig(RESULT.with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
