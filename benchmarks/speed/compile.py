"""Compile time and memory, against torch.fx.symbolic_trace alone and against Torch-Pruning.

    pip install -e '.[bench]'
    python -m benchmarks.speed.compile                          # goes on where it stopped; about ten minutes in all
    python -m benchmarks.speed.compile --only resnet110 --again # one network, measured again
    python -m benchmarks.speed.compile --smoke                  # one small network, not kept; exits 1 if a step fails

Compiling is: trace, insert both kinds of scales, remove the half of the layers that has scale zero, fuse, fold,
simplify, strip. Each network has processes of its own (compile_steps.py), for time and for peak memory: with the
weights shared, as they are for the time, and with trace()'s own copy of them, its default. Writes
results/compile.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.report.compile import ratios
from benchmarks.speed import compile_steps
from benchmarks.speed.compile_record import CIFAR, IMAGENET, Row
from fxprune.files import write_json

RESULT = RESULTS / "compile.json"


def main() -> None:
    """Measure the networks that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CIFAR, *IMAGENET], default=[*CIFAR, *IMAGENET])
    parser.add_argument("--again", action="store_true", help="measure what has a row too")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="for the turns of one network, two at least")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        print(ratios([measured("resnet20", 2, 0)]))
        return
    rows: dict[str, Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for name in arguments.only:
        if name not in rows or arguments.again:
            rows[name] = measured(name, arguments.turns, arguments.seconds)
            write_json(RESULT, {**provenance("torch-pruning"), "rows": rows})
            print(ratios([rows[name]]), flush=True)


def measured(name: str, turns: int, seconds: float) -> Row:
    """Measure one network in processes of its own."""
    row: Row = {}
    for what in ("time", "memory", "memory-with-copy"):
        command = [sys.executable, "-m", compile_steps.__name__, what, name]
        command += ["--turns", str(turns), "--seconds", str(seconds)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        row |= json.loads(done.stdout)
    return row


if __name__ == "__main__":
    main()
