"""Pruning without training, with the controls that its figures need.

    python -m benchmarks.accuracy.untrained resnet56 --data imagefolder:DIR --weights A.pt B.pt --in-memory
    python -m benchmarks.accuracy.untrained resnet56 --data imagefolder:DIR --weights A.pt B.pt --table

The first works out the rows that are not done yet, one line each of RUNS/untrained-NETWORK.jsonl; the second writes
results/untrained_NETWORK.json. For each checkpoint, each share of the MACs that is left, and channels, layers (convs
and branches), or all of them:

    chosen   as fxprune prune --no-train chooses, on ``--images`` training images
    random   layers of the same number and kinds, drawn, and channels: alone at the same widths, beside layers of
             all groups the same share, for as many MACs

each as it is cut, with its norms measured anew, repaired, and both; and, of what was cut and of what was repaired,
one epoch of training later. What each is missed is measured once for all shares. 5,000 training images are held out
to choose on; test images are seen by finished networks alone. Rows keep which of them are right, so that differences
have a paired standard error.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx
from torch.utils.data import Dataset

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.paired import without_choosing
from benchmarks.accuracy.repairs import finished, kept_damage, traced
from benchmarks.accuracy.rows import checkpoint_name, read_rows, require_settings
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.accuracy.untrained_record import record
from fxprune.choosing.planned_sites import PlannedSite, planned_channels
from fxprune.choosing.targets import Targets
from fxprune.costs.macs import total_macs
from fxprune.files import append_line, make_folder, write_json
from fxprune.passes import MeasureNorms, Repair
from fxprune.pruning.layer_sites import names_of_layers
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.untrained.no_train import choose_untrained
from fxprune.structures.channels.groups import Channels
from fxprune.training.data import ImageData, load_data, sample_batches
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

WHAT = {"channels": "channels", "layers": "convs,branches", "all": "all"}
STAGES = ("cut", "norms anew", "repaired", "repaired, norms anew", "cut, an epoch", "repaired, an epoch")


class Row(NamedTuple):
    """One network: what names it in the file of rows."""

    checkpoint: str
    left: float
    what: str
    choice: str
    stage: str


def main() -> None:
    """Work out the rows that are not done yet, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path, nargs="+", help="checkpoints of it")
    parser.add_argument("--left", type=float, nargs="+", default=[0.7, 0.5], help="shares of the MACs to leave")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--images", type=int, default=512, help="training images that are looked at")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out to choose on")
    parser.add_argument("--table", action="store_true", help="write the result of the rows that were worked out")
    add_training_arguments(parser, epochs=1, lr=0.01)
    arguments = parser.parse_args()
    file = arguments.runs / f"untrained-{arguments.network}.jsonl"
    rows = read_rows(file, Row)
    if arguments.table:
        write_json(RESULTS / f"untrained_{arguments.network}.json", record(rows, arguments.network, STAGES))
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
    arguments: argparse.Namespace, settings: Settings, data: ImageData, test: Dataset[Any], known: dict[Row, Any]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the rows that are not known, each with what became of it."""
    images = sample_batches(data, arguments.images)
    for weights in arguments.weights:
        name = checkpoint_name(weights, arguments.runs)
        graph = traced(arguments.network, weights, data).eval()
        whole = Row(name, 1.0, "", "", "unpruned")
        if whole not in known:
            yield whole, finished(graph, graph, data, test)
        for left, what in product(arguments.left, arguments.what):
            of = [Row(name, left, what, choice, stage) for choice in ("chosen", "random") for stage in STAGES]
            if all(row in known for row in of):
                continue
            criterion = kept_damage(graph, arguments.network, name, arguments.runs)
            plan = choose_untrained(
                graph, images, Targets(macs=left), surgery=Surgery(what=WHAT[what]), criterion=criterion
            )
            plans = {"chosen": plan, "random": at_random(graph, plan, settings.seed)}
            for row in of:
                if row not in known:
                    network = of_stage(row.stage, graph, plans[row.choice], images, data, settings)
                    yield row, {**finished(network, graph, data, test), "plan": str(plan)}


def of_stage(
    stage: str, graph: fx.GraphModule, plan: PruningPlan, images: list[Any], data: ImageData, settings: Settings
) -> fx.GraphModule:
    """Return the network of a stage."""
    network = plan.apply(graph).graph_module
    if stage.startswith("repaired"):
        network = Repair(data=images, reference=graph)(network).graph_module
    if stage.endswith("norms anew"):
        network = MeasureNorms(data=images)(network).graph_module
    if stage.endswith("an epoch"):
        torch.manual_seed(settings.seed)
        train(network, data, settings, print)
        network.cpu().to(memory_format=torch.contiguous_format)
    return network.eval()


def at_random(graph: fx.GraphModule, plan: PruningPlan, seed: int) -> PruningPlan:
    """Return a plan of as many layers of the same kinds, and of channels, drawn by ``seed``.

    Of channels alone as many go of each group. Beside layers, other ones than those of ``plan``, each group loses the
    same share, for as many MACs.
    """
    draw = random.Random(seed)
    names: dict[str, list[str]] = {}
    for (kind, _, _), name in names_of_layers(graph).items():
        names.setdefault(kind, []).append(name)
    drawn = {kind: draw.sample(known, k=len(plan.layers(kind))) for kind, known in names.items()}
    layers = [replace(one, path=drawn[one.kind].pop()) for one in plan.sites if one.kind != "channels"]
    found = replace(plan, sites=layers, criterion="random")
    if not plan.indices:
        return found
    if not layers:
        return replace(found, sites=_as_many(graph, plan, draw))
    left = total_macs(plan.apply(graph).graph_module) / total_macs(graph)
    options: dict[str, Any] = {"criterion": "random", "seed": seed, "groups": plan.groups}
    narrow = fxprune.choose(found.apply(graph).graph_module, "channels", Targets(macs=left), **options)
    return replace(found, sites=[*narrow.sites, *layers])


def _as_many(graph: fx.GraphModule, plan: PruningPlan, draw: random.Random) -> list[PlannedSite]:
    """Return channels that are drawn, as many as go in ``plan`` of those that the same layers make."""
    channels = Channels(graph)
    makers: dict[int, tuple[str, ...]] = {}
    for path, classes in channels.outputs.items():
        for one in dict.fromkeys(classes.tolist()):
            makers[one] = (*makers.get(one, ()), path)
    gone = {int(channels.outputs[path][place]) for path, places in plan.indices.items() for place in places}
    others: set[int] = set()
    for group in channels.groups:
        alike: dict[tuple[str, ...], list[int]] = {}
        for one in group.free.tolist():
            alike.setdefault(makers.get(one, ()), []).append(one)
        for mine in alike.values():
            others |= set(draw.sample(mine, k=len(gone.intersection(mine))))
    return planned_channels(channels, others, np.zeros(len(channels.labels)))


if __name__ == "__main__":
    main()
