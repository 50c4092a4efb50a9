"""What analysing and cutting channels costs, in time and memory, against torch.fx.symbolic_trace alone.

    python -m benchmarks.speed.channels                         # goes on where it stopped; some minutes in all
    python -m benchmarks.speed.channels --only swin_t --again   # one network, measured again

Four things take turns: symbolic_trace itself, and of a traced graph the analysis; RemoveChannels with indices that
were chosen before (analysis, plan, proof, new layers); RemoveChannels with a ratio, where it ranks all channels too.
Beside them what any cut must do: read all weights once, and write once what is left. Each network has processes of
its own, for time (one thread, CPU seconds) and for peak memory. Writes results/channels.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

import fxprune
from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.report.channels import CIFAR, IMAGENET, ratios
from benchmarks.speed.compile_record import Row
from benchmarks.speed.compile_steps import Clock, build, no_collection, status
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.samples import Samples
from fxprune.files import write_json
from fxprune.passes import RemoveChannels
from fxprune.structures.channels.groups import Channels

RESULT = RESULTS / "channels.json"


def measure_times(name: str, turns: int) -> Row:
    """Return the row of a network: what each step took, turn by turn."""
    model, image = build(name)
    graph = fxprune.trace(model, image, check=False, share_weights=True)
    pruned = RemoveChannels(ratio=0.5)(graph).graph_module
    left = [tensor.detach() for tensor in pruned.state_dict().values()]
    weights = [tensor.detach() for tensor in model.state_dict().values()]
    steps: dict[str, Callable[[], Any]] = {
        "symbolic_trace": partial(fx.symbolic_trace, model),
        "analysis": partial(Channels, graph),
        "indices": partial(RemoveChannels(indices=chosen(Channels(graph))), graph),
        "ratio": partial(RemoveChannels(ratio=0.5), graph),
        "read": lambda: [one.sum() for one in weights],
        "write": lambda: [torch.zeros_like(one) for one in left],
    }
    seconds: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(turns):
        for step, run in steps.items():
            clock = Clock()
            with no_collection():
                clock.measure(step, run)
            seconds[step].append(round(clock.cpu[step], 5))
    size, kept = (sum(one.numel() * one.element_size() for one in state) / 2**20 for state in (weights, left))
    return {
        "network": name,
        "nodes": len(graph.graph.nodes),
        "weights_mb": round(size, 1),
        "left_mb": round(kept, 1),
        "image": list(image.shape),
        "seconds": seconds,
    }


def chosen(channels: Channels) -> dict[str, list[int]]:
    """Return the channels that RemoveChannels(ratio=0.5) takes out, by the paths of layers."""
    worth, gone = L1().by_class(channels, Samples(())), list[int]()
    for group in channels.groups:
        gone += group.free[worth[group.free].argsort(kind="stable")][: group.width // 2].tolist()
    goes = channels.flagged(channels.spared(gone, worth))
    found = {path: goes[classes].nonzero()[0].tolist() for path, classes in channels.outputs.items()}
    return {path: places for path, places in found.items() if places}


def measure_memory(name: str) -> Row:
    """Return the most resident memory while tracing and cutting, the network itself included. Linux only."""

    def cut(name: str) -> None:
        model, image = build(name)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: building is no part of it
        RemoveChannels(ratio=0.5)(fxprune.trace(model, image, check=False, share_weights=True))

    cut("resnet20")  # once for what is loaded and cached at the first call
    gc.collect()
    before = status("VmRSS")
    cut(name)
    return {"peak_mb": round((status("VmHWM") - before) / 1024, 1)}


def measured(name: str, turns: int) -> Row:
    """Measure one network in processes of its own."""
    row: Row = {}
    for what in ("time", "memory"):
        command = [sys.executable, "-m", "benchmarks.speed.channels", "--only", name, "--row", what]
        command += ["--turns", str(turns)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        row |= json.loads(done.stdout)
    return row


def main() -> None:
    """Measure the networks that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CIFAR, *IMAGENET], default=[*CIFAR, *IMAGENET])
    parser.add_argument("--again", action="store_true", help="measure what has a row too")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--row", choices=["time", "memory"], help="print a part of the row of one network, no more")
    arguments = parser.parse_args()
    if arguments.row:
        name = arguments.only[0]
        print(json.dumps(measure_memory(name) if arguments.row == "memory" else measure_times(name, arguments.turns)))
        return
    rows: dict[str, Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for name in arguments.only:
        if name not in rows or arguments.again:
            rows[name] = measured(name, arguments.turns)
            write_json(RESULT, {**provenance(), "rows": rows})
            print(ratios([rows[name]]), flush=True)


if __name__ == "__main__":
    main()
