"""What was cut, repaired without training: ours beside GRAIL's and CaP's, at the same masks.

    python -m benchmarks.accuracy.repairs resnet56 --data imagefolder:DIR --weights A.pt B.pt --in-memory
    python -m benchmarks.accuracy.repairs resnet56 --data imagefolder:DIR --weights A.pt B.pt --table

The first works out the rows that are not done yet, one line each of RUNS/repairs-NETWORK.jsonl; the second writes
results/repairs_NETWORK.json. Channels go in blocks only, the same share in each, by three masks (repair_arms.py),
which look at ``--mask-images`` training images where they look at any; repairs look at 64 to 4,096. A row:

    checkpoint, mask, share of the MACs that is left, repair, images, norms measured anew behind it or not

5,000 training images, the same for all, are held out to choose on; test images are seen by finished networks alone.
Rows keep which of them are right, so that differences have a paired standard error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils.data import Dataset

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.paired import correct, difference, packed, spread, unpacked, without_choosing
from benchmarks.accuracy.repair_arms import MASKS, REPAIRS, cut, repaired
from benchmarks.accuracy.rows import checkpoint_name, read_rows, require_settings
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs
from fxprune.files import append_line, make_folder, write_json
from fxprune.pruning.untrained.repaired_damage import RepairedDamage
from fxprune.sources.models import load_weights
from fxprune.training.data import ImageData, load_data, sample_batches, sample_inputs
from fxprune.training.evaluation import evaluate

IN_BLOCKS = ("layer*.conv1",)
OURS = "ours"


class Row(NamedTuple):
    """One network: what names it in the file of rows."""

    checkpoint: str
    mask: str
    left: float
    repair: str
    images: int
    norms: bool


def main() -> None:
    """Work out the rows that are not done yet, or write the table of those that are."""
    arguments = _arguments()
    file = arguments.runs / f"repairs-{arguments.network}.jsonl"
    rows = read_rows(file, Row)
    if arguments.table:
        write_json(RESULTS / f"repairs_{arguments.network}.json", record(rows, arguments.network))
        return
    make_folder(arguments.runs)
    data = load_data(arguments.data, networks.image_size(arguments.network), in_memory=arguments.in_memory)
    data, test = without_choosing(data, arguments.choosing, arguments.seed)
    if arguments.test_images:
        test = spread(test, arguments.test_images)
    settings = {name: getattr(arguments, name) for name in ("choosing", "seed", "mask_images")}
    settings["test_images"] = len(test)  # type: ignore[arg-type]  # every map-style data set has a length
    require_settings(file, rows, settings)
    for weights in arguments.weights:
        for row, found in worked_out(arguments, weights, data, test, rows):
            append_line(file, json.dumps({**row._asdict(), **found, "settings": settings}))
            print(f"{', '.join(map(str, row))}: {found['top1_choosing']:.2%} held out", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path, nargs="+", help="checkpoints of it")
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--in-memory", action="store_true", help="as for fxprune prune")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the rows")
    parser.add_argument("--left", type=float, nargs="+", default=[0.7, 0.5], help="shares of the MACs to leave")
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS))
    parser.add_argument("--repairs", nargs="+", choices=REPAIRS, default=list(REPAIRS))
    parser.add_argument("--images", type=int, nargs="+", default=[64, 512, 4096], help="images that repairs look at")
    parser.add_argument("--mask-images", type=int, default=512, help="images that masks look at")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out to choose on")
    parser.add_argument("--test-images", type=int, help="only so many test images, spread over all")
    parser.add_argument("--seed", type=int, default=0, help="of the images that are held out")
    parser.add_argument("--table", action="store_true", help="write the result of the rows that were worked out")
    return parser.parse_args()


def worked_out(
    arguments: argparse.Namespace, weights: Path, data: ImageData, test: Dataset[Any], known: dict[Row, Any]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the rows of a checkpoint that are not known, each with what became of it."""
    name = checkpoint_name(weights, arguments.runs)
    graph = traced(arguments.network, weights, data)
    whole = Row(name, "", 1.0, "none", 0, False)
    if whole not in known:
        yield whole, finished(graph, graph, data, test)
    for mask, left in product(arguments.masks, arguments.left):
        rows = [
            Row(name, mask, left, repair, images if repair != "none" or norms else 0, norms)
            for images, repair, norms in product(arguments.images, arguments.repairs, (False, True))
        ]
        rows = [row for row in dict.fromkeys(rows) if row not in known]
        if not rows:
            continue
        pruned = cut(graph, mask, left, inputs(data, arguments.mask_images), IN_BLOCKS)
        for row in rows:
            start = time.monotonic()
            images = inputs(data, max(row.images, 1))
            found = repaired(graph, pruned, row.repair, images, row.norms)
            seconds = round(time.monotonic() - start, 1)
            yield row, {**finished(found, graph, data, test), "seconds": seconds}


def traced(network: str, weights: Path, data: ImageData) -> fx.GraphModule:
    """Return the graph of a network with the weights of a file."""
    model = getattr(networks, network)()
    load_weights(model, weights)
    return fxprune.trace(model.eval(), sample_inputs(data))


def kept_damage(graph: fx.GraphModule, network: str, checkpoint: str, runs: Path) -> RepairedDamage:
    """Return the criterion of pruning without training, measured once for all that asks for it in these runs."""
    return RepairedDamage(graph, state=runs / f"damages-{network}-{checkpoint.replace('/', '-')}.json")


def inputs(data: ImageData, count: int) -> list[torch.Tensor]:
    """Return the first inputs of so many training images, spread over all, in batches."""
    return [images for images, _ in sample_batches(data, count)]


def finished(graph: fx.GraphModule, whole: fx.GraphModule, data: ImageData, test: Dataset[Any]) -> dict[str, Any]:
    """Return what a row tells of its network."""
    graph.eval()
    right = correct(graph, test)
    return {
        "macs_left": total_macs(graph) / total_macs(whole),
        "top1_choosing": evaluate(graph, data.held_out),
        "top1": float(right.mean()),
        "correct": packed(right),
    }


def record(rows: dict[Row, dict[str, Any]], network: str) -> dict[str, Any]:
    """Return the record of all rows: means over checkpoints, and differences to ours on the same test images."""
    if not rows:
        raise SystemExit(f"no row of {network} was worked out: run without --table first")
    settings = next(iter(rows.values()))["settings"]
    kinds = list(dict.fromkeys(row._replace(checkpoint="") for row in rows))
    return {
        **provenance(),
        "settings": settings,
        "checkpoints": list(dict.fromkeys(row.checkpoint for row in rows)),
        "rows": [_told(kind, rows, settings["test_images"]) for kind in kinds],
    }


def _told(kind: Row, rows: dict[Row, dict[str, Any]], count: int) -> dict[str, Any]:
    """Return what the record tells of one kind of network, over its checkpoints."""
    mine = {row.checkpoint: found for row, found in rows.items() if row._replace(checkpoint="") == kind}
    told: dict[str, Any] = {name: value for name, value in kind._asdict().items() if name != "checkpoint"}
    numbers = [
        name for name in ("macs_left", "top1_choosing", "top1", "seconds") if name in next(iter(mine.values()))
    ]
    told |= {name: mean(found[name] for found in mine.values()) for name in numbers}
    told["by_checkpoint"] = {one: {name: found[name] for name in numbers} for one, found in mine.items()}
    ours = {one: rows.get(kind._replace(checkpoint=one, repair=OURS)) for one in mine}
    both = [one for one, found in ours.items() if found is not None]
    if both and kind.repair != OURS:
        right = [_right([each[one] for one in both], count) for each in (mine, ours)]
        against, error = difference(*right)
        told["against_ours"] = {"difference": against, "standard_error": error}
    return told


def _right(found: Sequence[Any], count: int) -> list[Any]:
    return [unpacked(one["correct"], count) for one in found]


if __name__ == "__main__":
    main()
