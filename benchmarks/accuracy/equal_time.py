"""What to take out at half of the time: layers, channels or both, and Torch-Pruning's channels, at the same time.

    python -m benchmarks.accuracy.equal_time resnet56 --data imagefolder:DIR --weights A.pt --in-memory
    python -m benchmarks.accuracy.equal_time resnet56 --data imagefolder:DIR --weights A.pt --table

The first works out the rows that are not done yet, one line each of RUNS/equal-time-NETWORK.jsonl; the second writes
results/equal_time_NETWORK.json. Times are of one thread in eager mode. The limit, in milliseconds, is ``--left`` of
what the unpruned network takes, the same for all arms of a checkpoint and a batch:

    layers, channels, both   chosen and repaired without training, as fxprune prune --no-train --target-ms does
    Torch-Pruning            its group L1, one ratio everywhere, by bisection on the clock; norms measured anew

With ``--epochs`` each is there once more, trained on as long, with the same images. Times are measured again on the
emitted networks, in turns with the unpruned one, in a process of their own (benchmarks.speed.emitted_in_turns). 5,000
training images are held out to choose on; test images are seen by finished networks alone. Rows keep which of them
are right, so that differences have a paired standard error.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils.data import Dataset

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy import torch_pruning_cuts
from benchmarks.accuracy.equal_time_record import record
from benchmarks.accuracy.paired import answers, packed, spread, without_choosing
from benchmarks.accuracy.repairs import kept_damage, traced
from benchmarks.accuracy.rows import checkpoint_name, read_rows
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from benchmarks.speed.emitted_in_turns import in_turns
from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.targets import Targets
from fxprune.costs.latency.network_ops import inputs_at
from fxprune.costs.macs import total_macs
from fxprune.files import append_line, make_folder, write_json
from fxprune.passes import MeasureNorms
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.untrained.no_train import prune_untrained
from fxprune.training.data import ImageData, load_data, sample_batches
from fxprune.training.evaluation import evaluate
from fxprune.training.recipe import train
from fxprune.training.settings import Settings

WHAT = {"layers": "convs,branches", "channels": "channels", "both": "all"}
PEER = "Torch-Pruning"
ARMS = (*WHAT, PEER)
IN_BLOCKS = {"resnet20": ["layer*.conv1"], "resnet56": ["layer*.conv1"]}
"""Where Torch-Pruning cannot cut the others."""


class Row(NamedTuple):
    """One network: what names it in the file of rows."""

    checkpoint: str
    batch: int
    left: float
    arm: str
    epochs: int


@dataclass(frozen=True)
class Contest:
    """What the arms of a checkpoint and a batch have in common.

    Args:
        graph: the unpruned network; ``answers`` are the classes that it gives the test images.
        latency: what predicts and measures times of it.
        criterion: how much what may go is missed.
        limit: the milliseconds that are left, and ``unpruned`` those that it takes.
        images: what is looked at, pairs of inputs and labels in batches.
    """

    network: str
    graph: fx.GraphModule
    answers: torch.Tensor
    latency: LatencyModel
    criterion: Criterion
    unpruned: float
    limit: float
    images: list[Any]
    data: ImageData
    test: Dataset[Any]
    settings: Settings


def main() -> None:
    """Work out the rows that are not done yet, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path, nargs="+", help="checkpoints of it")
    parser.add_argument("--left", type=float, default=0.5, help="share of the time to leave")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="images at a time")
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--images", type=int, default=512, help="training images that are looked at")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out to choose on")
    parser.add_argument("--test-images", type=int, help="only so many test images, spread over all")
    parser.add_argument("--table", action="store_true", help="write the result of the rows that were worked out")
    add_training_arguments(parser, epochs=0, lr=0.02)
    arguments = parser.parse_args()
    file = arguments.runs / f"equal-time-{arguments.network}.jsonl"
    rows = read_rows(file, Row)
    if arguments.table:
        found = {**provenance("torch-pruning"), **record(rows, arguments.network, WHAT, PEER)}
        write_json(RESULTS / f"equal_time_{arguments.network}.json", found)
        return
    make_folder(arguments.runs)
    torch.set_num_threads(1)
    for row, told in worked_out(arguments, rows):
        append_line(file, json.dumps({**row._asdict(), **told}))
        print(f"{', '.join(map(str, row))}: {told['top1']:.2%} at {told['clock']['ratio']:.3f}", flush=True)


def worked_out(arguments: argparse.Namespace, known: Mapping[Row, Any]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the rows that are not known, each with what became of it."""
    settings = settings_from(arguments)
    data = load_data(arguments.data, networks.image_size(arguments.network), in_memory=arguments.in_memory)
    data, test = without_choosing(data, arguments.choosing, settings.seed)
    if arguments.test_images:
        test = spread(test, arguments.test_images)
    for weights in arguments.weights:
        name = checkpoint_name(weights, arguments.runs)
        graph = traced(arguments.network, weights, data).eval()
        classes, labels = answers(graph, test)
        own = {"top1_unpruned": float((classes == labels).double().mean()), "settings": settings.shared()}
        for batch in arguments.batch:
            of = [
                Row(name, batch, arguments.left, arm, epochs)
                for arm in arguments.arm
                for epochs in dict.fromkeys((0, settings.epochs))
            ]
            if all(row in known for row in of):
                continue
            latency = LatencyModel.measure(graph, batch=batch, threads=1)
            whole = latency.measured(_plain(graph)).milliseconds
            images = sample_batches(data, arguments.images)
            contest = Contest(
                arguments.network,
                graph,
                classes,
                latency,
                kept_damage(graph, arguments.network, name, arguments.runs),
                whole,
                arguments.left * whole,
                images,
                data,
                test,
                settings,
            )
            for row in of:
                if row not in known:
                    yield row, {**finished(row, contest), **own}


def finished(row: Row, contest: Contest) -> dict[str, Any]:
    """Make the network of a row, and return what is told of it."""
    start = time.monotonic()
    network, told = (torch_pruned if row.arm == PEER else untrained)(row, contest)
    told["seconds"] = round(time.monotonic() - start, 1)
    if row.epochs:
        torch.manual_seed(contest.settings.seed)
        train(network, contest.data, contest.settings, print)
        network.cpu().to(memory_format=torch.contiguous_format)
    classes, labels = answers(network, contest.test)
    plain = _plain(network)
    with TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("unpruned", "pruned")]
        for graph, into in zip((_plain(contest.graph), plain), folders, strict=True):
            fxprune.emit(graph, into)
        (inputs,) = inputs_at(contest.graph, row.batch)  # the model's own: times depend on what max pools see
        clock = in_turns(folders[0], folders[1], inputs)
    return {
        **told,
        "unpruned_ms": contest.unpruned,
        "clock": clock,
        "macs_left": total_macs(plain) / total_macs(contest.graph),
        "top1_choosing": evaluate(network, contest.data.held_out),
        "top1": float((classes == labels).double().mean()),
        "agreement": float((classes == contest.answers).double().mean()),
        "correct": packed((classes == labels).numpy()),
        "images": len(labels),
    }


def untrained(row: Row, contest: Contest) -> tuple[fx.GraphModule, dict[str, Any]]:
    """Choose, cut and repair without training; return the network with its norms, and how it was found."""
    surgery = Surgery(what=WHAT[row.arm], norms="keep")
    targets = Targets(milliseconds=contest.limit)
    found = prune_untrained(
        contest.graph,
        contest.images,
        targets,
        surgery=surgery,
        criterion=contest.criterion,
        latency=contest.latency,
    )
    assert found.timed is not None
    best = found.timed.best
    told = {"plan": str(found.plan), "kept": found.kept, "tries": len(found.timed.tries)}
    return found.result.graph_module, {**told, "predicted": best.predicted, "measured": best.measured}


def torch_pruned(row: Row, contest: Contest) -> tuple[fx.GraphModule, dict[str, Any]]:
    """Cut by Torch-Pruning until the clock says that it is enough, and measure norms anew."""
    examples = contest.images[0][0][:16]

    def milliseconds(network: nn.Module) -> float:
        graph = fxprune.trace(copy.deepcopy(network).eval(), examples)
        return contest.latency.measured(_plain(graph)).milliseconds

    network = getattr(networks, contest.network)()
    network.load_state_dict(contest.graph.state_dict())
    only = IN_BLOCKS.get(contest.network, [])
    cut = torch_pruning_cuts.cut_by_l1(network.eval(), examples, row.left, only, milliseconds)
    graph = fxprune.trace(cut.eval(), examples)
    anew = MeasureNorms(data=[images for images, _ in contest.images])(graph).graph_module
    return anew, {"measured": milliseconds(cut)}


def _plain(graph: fx.GraphModule) -> fx.GraphModule:
    """Return the network as it is emitted, its norms in the weights."""
    return Pipeline(AFTER_TRAINING, verify=False)(graph).graph_module


if __name__ == "__main__":
    main()
