"""Heads of linear layers split into blocks that need nothing of each other: time, bytes and multiplications.

    python -m benchmarks.speed.partition                 # goes on where it stopped; an hour of two cores
    python -m benchmarks.speed.partition --only vgg16    # one head
    python -m benchmarks.speed.partition --smoke         # a small head; writes nothing

Heads as those of TinyVGG16 (25,088 - 4,096 - 2,048 - 200) and VGG-16 (25,088 - 4,096 - 4,096 - 1,000), of random
weights and without dropout, at batch 1 and 64. On one thread, in turns: the unpruned head; blocks as PartitionLinear
writes them, in each form, with the features of a block side by side (as where permutations are folded into the conv
before the head); the same with drawn blocks that are picked by index in front of each layer; and the unpruned layers
with as many weights as the blocks have, drawn, as torch.sparse CSR. Then k processes of a thread each, a block each,
against the unpruned head and the blocks in one process with one and with two threads: process 0 scatters the inputs
and gets the logits added up (gloo), which is in the time. Medians of wall time; the first turn is not counted.

Energy is a model and no measurement: 4.6 pJ a multiplication and addition in float32, and 160 pJ a byte of weights
read from memory once a batch (640 pJ a word; 45 nm, Horowitz, ISSCC 2014). Activations are left out.
Writes results/partition.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise, product
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import fx, nn

import fxprune
from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.speed.partition_processes import timed_processes
from fxprune.choosing.partitions.base import sizes
from fxprune.costs.macs import total_macs, total_params
from fxprune.files import write_json
from fxprune.ir.weight_blocks import WeightBlocks
from fxprune.passes import MaskPartition, PartitionLinear

RESULT = RESULTS / "partition.json"
HEADS = {"tinyvgg16": (25088, 4096, 2048, 200), "vgg16": (25088, 4096, 4096, 1000), "small": (512, 256, 128, 10)}
FORMS = ("linears", "conv", "bmm")
PICOJOULES_MAC = 4.6
PICOJOULES_BYTE = 160.0
Run = Callable[[torch.Tensor], torch.Tensor]


def head(widths: tuple[int, ...], batch: int) -> fx.GraphModule:
    """Return a head of random weights, traced."""
    torch.manual_seed(0)
    layers = [part for ins, outs in pairwise(widths) for part in (nn.Linear(ins, outs), nn.ReLU())]
    return fxprune.trace(nn.Sequential(*layers[:-1]).eval(), torch.randn(batch, widths[0]), check=False)


def side_by_side(graph: fx.GraphModule, widths: tuple[int, ...], blocks: int) -> fx.GraphModule:
    """Return the head masked to blocks whose features follow each other."""
    order = [np.repeat(np.arange(blocks), sizes(width, blocks)) for width in widths[:-1]]
    paths = [str(node.target) for node in graph.graph.find_nodes(op="call_module") if node.target[-1] in "02468"]
    layers = {path: WeightBlocks(rows, read) for path, (read, rows) in zip(paths, pairwise(order), strict=False)}
    return MaskPartition(blocks, plan=fxprune.PartitionPlan(layers))(graph).graph_module


def picked_by_index(masked: fx.GraphModule, widths: tuple[int, ...]) -> Run:
    """Return the blocks with features that are picked by drawn indices in front of each layer but for the last."""
    network = PartitionLinear()(masked).graph_module
    layers: list[Any] = [network.get_submodule(path) for path in ("0", "2", "4")]
    orders = [torch.randperm(width) for width in widths[:-2]]

    def run(x: torch.Tensor) -> torch.Tensor:
        for order, layer in zip(orders, layers, strict=False):
            parts = [one for _, one in layer.named_children()]
            pieces = torch.split(x.index_select(-1, order), [one.in_features for one in parts], -1)
            x = torch.relu(torch.cat([one(piece) for one, piece in zip(parts, pieces, strict=True)], -1))
        found: torch.Tensor = layers[-1](x)
        return found

    return run


def sparse(widths: tuple[int, ...], blocks: int) -> Run:
    """Return the head with a k-th of the weights of all layers but for the last, drawn, as CSR."""
    weights = []
    for ins, outs in pairwise(widths[:-1]):
        drawn = torch.randn(outs, ins).masked_fill_(torch.rand(outs, ins) > 1 / blocks, 0.0)
        weights.append((drawn.to_sparse_csr(), torch.randn(outs, 1)))
    last = nn.Linear(widths[-2], widths[-1])

    def run(x: torch.Tensor) -> torch.Tensor:
        y = x.T
        for weight, bias in weights:
            y = torch.relu(weight @ y + bias)
        found: torch.Tensor = last(y.T)
        return found

    return run


def milliseconds(runs: Mapping[str, Run], x: torch.Tensor, turns: int) -> dict[str, float]:
    """Return the median wall time of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(turns + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(median(times[1:]), 4) for name, times in found.items()}


def costs(graph: fx.GraphModule, batch: int) -> dict[str, float]:
    """Return what a head multiplies and reads, for a sample and for a batch, and the energy of the model."""
    macs, weights = total_macs(graph), 4 * total_params(graph)
    energy = 1e-9 * (PICOJOULES_MAC * macs * batch + PICOJOULES_BYTE * weights)
    return {"macs": macs, "weight_bytes": weights, "millijoules_of_model": round(energy, 4)}


def measure(name: str, batch: int, blocks: int, turns: int) -> dict[str, Any]:
    """Return a row: on one thread, then on two, then in processes."""
    torch.set_num_threads(1)
    widths = HEADS[name]
    graph = head(widths, batch)
    x = torch.randn(batch, widths[0])
    masked = side_by_side(graph, widths, blocks)
    split = {form: PartitionLinear(form=form)(masked).graph_module for form in FORMS}  # type: ignore[arg-type]
    runs: dict[str, Run] = {"unpruned": graph, **split}
    runs |= {"drawn, picked by index": picked_by_index(masked, widths), "sparse": sparse(widths, blocks)}
    one = milliseconds(runs, x, turns)
    torch.set_num_threads(2)
    two = milliseconds({"unpruned": graph, "linears": split["linears"]}, x, turns)
    torch.set_num_threads(1)
    return {
        "widths": list(widths),
        "one_thread_ms": one,
        "two_threads_ms": two,
        "processes_ms": timed_processes(widths, batch, blocks, turns),
        "unpruned": costs(graph, batch),
        "blocks": costs(split["linears"], batch),
    }


def measured(key: str, turns: int) -> dict[str, Any]:
    """Return the row of a key, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.partition", "--row", key, "--turns", str(turns)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def told(key: str, row: Mapping[str, Any]) -> str:
    """Return a row in a line: how many times as fast as the unpruned head."""
    one = row["one_thread_ms"]
    ratios = [f"{name} {one['unpruned'] / ms:.2f}x" for name, ms in one.items() if name != "unpruned"]
    processes = one["unpruned"] / row["processes_ms"]
    return f"{key}: {one['unpruned']:.2f} ms unpruned; {', '.join(ratios)}; processes {processes:.2f}x"


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(HEADS)[:2], default=list(HEADS)[:2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--again", action="store_true", help="measure what has a row too")
    parser.add_argument("--row", help="print one row, HEAD/BATCH/BLOCKS, no more")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.row or arguments.smoke:
        name, batch, blocks = (arguments.row or "small/4/2").split("/")
        row = measure(name, int(batch), int(blocks), arguments.turns)
        print(told("small/4/2", row) if arguments.smoke else json.dumps(row))
        return
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for name, batch, blocks in product(arguments.only, arguments.batch, arguments.blocks):
        key = f"{name}/{batch}/{blocks}"
        if key not in rows or arguments.again:
            rows[key] = measured(key, arguments.turns)
            write_json(RESULT, {**provenance(), "rows": rows})
            print(told(key, rows[key]), flush=True)


if __name__ == "__main__":
    main()
