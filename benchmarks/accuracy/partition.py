"""What heads lose when they are split into blocks, by each way to choose these: masked, repaired, trained a while.

    python -m benchmarks.accuracy.partition vgg11_head --data imagefolder:DIR --weights FILE --in-memory
    python -m benchmarks.accuracy.partition vgg11_head --data imagefolder:DIR --weights FILE --table
    python -m benchmarks.accuracy.partition digits_mlp --data digits --choosing 200 --seeds 5 --weights FILE ...

The first works out the rows that are not done yet, a line each of RUNS/partition-NETWORK.jsonl; --table writes
results/partition_NETWORK.json. For each checkpoint, number of blocks, way to choose and seed of choosing:

    masked     what lies across the blocks is zero
    repaired   least squares inside of the blocks, on ``--images`` training images
    trained    and for ``--epochs`` more with the masks held, as the recipe trains

Blocks are chosen on the same images. ``--choosing`` training images are held out; test images are seen by finished
networks alone. Differences to drawn blocks are paired by checkpoint and seed, their standard error is over these.
Networks are those of benchmarks/accuracy/from_scratch.py.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils.data import Dataset

from benchmarks import RESULTS, networks
from benchmarks.accuracy.paired import without_choosing
from benchmarks.accuracy.repairs import finished, traced
from benchmarks.accuracy.rows import checkpoint_name, read_rows, require_settings
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.files import append_line, make_folder, write_json
from fxprune.passes import MaskPartition, PartitionLinear, Repair
from fxprune.training.data import ImageData, load_data, sample_batches
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

CHOICES = {
    "random": ("random", "weight"),
    "alternating, weight": ("alternating", "weight"),
    "alternating, activation": ("alternating", "activation"),
    "alternating, cap": ("alternating", "cap"),
    "spectral, activation": ("spectral", "activation"),
    "min-cut, activation": ("min-cut", "activation"),
}
STAGES = ("masked", "repaired", "trained")
NUMBERS = ("macs_left", "top1_choosing", "top1")


class Row(NamedTuple):
    """One network: what names it in the file of rows."""

    checkpoint: str
    blocks: int
    choice: str
    seed: int
    stage: str


def main() -> None:
    """Work out the rows that are not done yet, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path, nargs="+", help="checkpoints of it")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", type=int, default=3, help="of choosing")
    parser.add_argument("--images", type=int, default=512, help="training images that are looked at")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out to choose on")
    parser.add_argument("--table", action="store_true", help="write the result of the rows that were worked out")
    add_training_arguments(parser, epochs=1, lr=0.01)
    arguments = parser.parse_args()
    file = arguments.runs / f"partition-{arguments.network}.jsonl"
    rows = read_rows(file, Row)
    if arguments.table:
        write_json(RESULTS / f"partition_{arguments.network}.json", record(rows, arguments.network))
        return
    make_folder(arguments.runs)
    settings = settings_from(arguments)
    shared = {**settings.shared(), "images": arguments.images, "choosing": arguments.choosing}
    require_settings(file, rows, shared)
    data = load_data(arguments.data, networks.image_size(arguments.network), in_memory=arguments.in_memory)
    data, test = without_choosing(data, arguments.choosing, settings.seed)
    for row, found in worked_out(arguments, settings, data, test, rows):
        append_line(file, json.dumps({**row._asdict(), **found, "settings": shared}))
        print(f"{', '.join(map(str, row))}: {found['top1_choosing']:.2%} held out", flush=True)


def worked_out(
    arguments: argparse.Namespace, settings: Settings, data: ImageData, test: Dataset[Any], known: Mapping[Row, Any]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the rows that are not known, each with what became of it."""
    images = list(sample_batches(data, arguments.images))
    for weights in arguments.weights:
        name = checkpoint_name(weights, arguments.runs)
        graph = traced(arguments.network, weights, data).eval()
        whole = Row(name, 1, "", 0, "unpruned")
        if whole not in known:
            yield whole, finished(graph, graph, data, test)
        for blocks, choice, seed in product(arguments.blocks, arguments.choices, range(arguments.seeds)):
            of = [Row(name, blocks, choice, seed, stage) for stage in STAGES]
            if all(row in known for row in of):
                continue
            for row, network in zip(of, stages(graph, of[0], images, data, settings), strict=True):
                if row not in known:
                    split = PartitionLinear()(network.eval()).graph_module
                    yield row, finished(split, graph, data, test)


def stages(
    graph: fx.GraphModule, row: Row, images: list[Any], data: ImageData, settings: Settings
) -> Iterator[fx.GraphModule]:
    """Yield the network of each stage."""
    search, by = CHOICES[row.choice]
    choosing: Any = {"search": search, "by": by, "data": images, "seed": row.seed}
    masked = MaskPartition(row.blocks, **choosing)(graph).graph_module
    yield masked
    repaired = Repair(data=images, reference=graph)(masked).graph_module
    yield repaired
    torch.manual_seed(settings.seed)
    train(repaired, data, settings, print)
    yield repaired.cpu().to(memory_format=torch.contiguous_format)


def record(rows: Mapping[Row, dict[str, Any]], network: str) -> dict[str, Any]:
    """Return the record: means over checkpoints and seeds, and top-1 less that of drawn blocks."""
    if not rows:
        raise SystemExit(f"no row of {network} was worked out: run without --table first")
    kinds = dict.fromkeys((row.blocks, row.choice, row.stage) for row in rows if row.stage != "unpruned")
    return {
        **provenance(),
        "settings": next(iter(rows.values()))["settings"],
        "unpruned": {
            row.checkpoint: {name: found[name] for name in NUMBERS}
            for row, found in rows.items()
            if row.stage == "unpruned"
        },
        "rows": [_told(*kind, rows) for kind in kinds],
    }


def _told(blocks: int, choice: str, stage: str, rows: Mapping[Row, dict[str, Any]]) -> dict[str, Any]:
    mine = {
        row: found for row, found in rows.items() if (row.blocks, row.choice, row.stage) == (blocks, choice, stage)
    }
    told: dict[str, Any] = {"blocks": blocks, "choice": choice, "stage": stage, "networks": len(mine)}
    told |= {name: mean(found[name] for found in mine.values()) for name in NUMBERS}
    drawn = {row: rows.get(row._replace(choice="random")) for row in mine}
    gains = [mine[row]["top1"] - other["top1"] for row, other in drawn.items() if other is not None]
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return {**told, "against_random": {"difference": mean(gains) if gains else None, "standard_error": error}}


if __name__ == "__main__":
    main()
