"""Layers alone, channels alone, and both in one schedule, trained to zero for half of the MACs or of the parameters.

    python -m benchmarks.accuracy.depth_and_width resnet20 --data imagefolder:DIR --weights resnet20.th \\
        --precision bf16 --in-memory --seed 0
    python -m benchmarks.accuracy.depth_and_width resnet20 --data imagefolder:DIR --weights resnet20.th --table

The first trains the arms of a seed that are not done yet (``--arm`` one alone), the second writes
results/depth_and_width_NETWORK.json of all seeds that are. The baseline is the checkpoint, fine-tuned for
``--epochs``, which benchmarks.accuracy.channels shares; each arm goes on from it for as many, with the same images in
the same order, as ``fxprune prune --what`` does:

    baseline trained on             nothing goes
    layers, channels, both          of all that can go, to ``--target`` of the MACs, or of the parameters
    from scratch as both            the network that both left, its weights drawn anew, trained as long

Training images are held out as in channels.py; the test images are seen by finished networks alone. Runs keep which
of them each network has right, so that differences have a paired standard error. ``--time`` measures the networks
that were emitted, each in turns with the baseline in a process of its own; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fxprune
from benchmarks import RESULTS
from benchmarks.accuracy.arms import done_in, read, require_alike, run, seeds_in
from benchmarks.accuracy.channel_arms import Work, trained_on
from benchmarks.accuracy.channels import IMAGE_SIZE, prepared
from benchmarks.accuracy.paired import packed, row_of
from benchmarks.accuracy.training_arguments import add_arm_arguments, add_training_arguments, settings_from
from benchmarks.provenance import provenance
from benchmarks.speed.emitted_in_turns import in_turns, loaded
from fxprune.files import read_json_of, write_json
from fxprune.passes import ResetWeights
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.run_record import PLAN
from fxprune.training.goal import Goal
from fxprune.training.job import Run, prune_on_data

BASELINE = "baseline trained on"
WHAT = {"layers": "convs,branches", "channels": "channels", "both": "all"}
COSTS = {"macs": "MACs", "params": "parameters"}
BATCHES = (1, 64)
_PRUNED, _UNPRUNED, _TIMES = "pruned", "unpruned", "times.json"


def main() -> None:
    """Run the arms that are not done yet, or time them, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a CIFAR ResNet of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--time", action="store_true", help="measure what the emitted networks take")
    add_arm_arguments(parser, ARMS)
    add_training_arguments(parser, epochs=12, lr=0.05)
    arguments = parser.parse_args()
    network, runs = arguments.network, arguments.runs
    if arguments.table:
        write_json(RESULTS / f"depth_and_width_{network}.json", record(runs, network))
        return
    settings = settings_from(arguments)
    folder = runs / f"depth-and-width-{network}-seed{settings.seed}"
    if arguments.time:
        for arm in done_in({settings.seed: folder}, ARMS):
            measure(folder / arm)
        return
    work = prepared(arguments, settings, runs / f"channels-{network}-seed{settings.seed}")
    for arm in arguments.arm or ARMS:
        train_arm(arm, work, folder)


def train_arm(arm: str, work: Work, folder: Path) -> Path:
    """Train an arm, unless it is done, and return its folder."""
    run(arm, folder, work.settings.seed, partial(ARMS[arm], work, folder))
    return folder / arm


def baseline(work: Work, folder: Path, out: Path) -> dict[str, Any]:
    """Train the baseline on."""
    return {**trained_on(work, out), "settings": _settings(work)}


def pruned(work: Work, folder: Path, out: Path, *, what: str, cost: str) -> dict[str, Any]:
    """Close what may go while it trains, and take it out."""
    goal = Goal(fxprune.Targets(**{cost: work.target}), what=WHAT[what])
    told = prune_on_data(
        copy.deepcopy(work.network), work.data, out / _PRUNED, work.settings, goal=goal, run=Run(say=print)
    )
    network = loaded(out / _PRUNED)
    right = work.right(network)
    if not (folder / _UNPRUNED).exists():
        emit_unpruned(work, folder)
    return {
        **{name: told[f"{name}_after"] for name in COSTS},
        "layers_removed": len(told["layers_removed"]),
        "channels_removed": told.get("channels_removed", 0),
        "saved_by": told["saved_by"],
        "top1_choosing": work.choosing(network),
        "top1": float(right.mean()),
        "correct": packed(right),
        "at_removal": told["accuracy_after_removal"] - told["accuracy_before_removal"],
        "path": told["path"],
        "seconds": told["seconds"],
        "settings": _settings(work),
    }


def from_scratch(work: Work, folder: Path, out: Path, *, cost: str) -> dict[str, Any]:
    """Train the network that both left from weights that are drawn by the seed."""
    plan = PruningPlan.load(train_arm(f"both, {COSTS[cost]}", work, folder) / _PRUNED / PLAN)
    left = plan.apply(work.traced()).graph_module
    network = copy.deepcopy(ResetWeights(work.settings.seed)(left).graph_module)
    return {
        **work.finished(network, work.train(network, out, "training", work.settings)),
        "settings": _settings(work),
    }


ARMS: dict[str, Callable[[Work, Path, Path], dict[str, Any]]] = {
    BASELINE: baseline,
    **{f"{what}, {told}": partial(pruned, what=what, cost=cost) for cost, told in COSTS.items() for what in WHAT},
    **{f"from scratch as both, {told}": partial(from_scratch, cost=cost) for cost, told in COSTS.items()},
}


def _settings(work: Work) -> dict[str, Any]:
    images = len(work.test)  # type: ignore[arg-type]  # every map-style data set has a length
    return {**work.settings.shared(), "target": work.target, "test_images": images}


def emit_unpruned(work: Work, folder: Path) -> None:
    """Write the baseline of a seed as an emitted network, to be timed beside the pruned ones."""
    fxprune.emit(fxprune.Pipeline(AFTER_TRAINING)(work.traced()).graph_module, folder / _UNPRUNED)


def measure(out: Path) -> None:
    """Time the emitted network of an arm, unless that is done; arms that emitted none are left out."""
    if (out / _PRUNED).exists() and not (out / _TIMES).exists():
        inputs = torch.randn(max(BATCHES), 3, IMAGE_SIZE, IMAGE_SIZE)
        times = {n: in_turns(out.parent / _UNPRUNED, out / _PRUNED, inputs[:n]) for n in BATCHES}
        write_json(out / _TIMES, times)
        print(f"{out.name}: {times}", flush=True)


def record(runs: Path, network: str) -> dict[str, Any]:
    """Return the record of all seeds in ``runs``: every arm against both of its cost, and against the baseline."""
    seeds = seeds_in(runs, f"depth-and-width-{network}")
    arms = done_in(seeds, ARMS)
    told = {(arm, seed): one.pop("settings") for arm, reports in arms.items() for seed, one in reports.items()}
    settings = require_alike(dict(enumerate(told.values())))
    count, rows = settings["test_images"], {}
    for arm, done in arms.items():
        both = arms.get(f"both, {arm.rpartition(', ')[2]}", {})
        rows[arm] = row_of(done, both, count)
        rows[arm]["against_baseline"] = row_of(done, arms.get(BASELINE, {}), count).get("against")
        files = {seed: seeds[seed] / arm / _TIMES for seed in done}
        rows[arm]["times"] = {seed: read_json_of(one, "times") for seed, one in files.items() if one.exists()}
    tuned = {seed: read(runs / f"channels-{network}-seed{seed}" / "fine-tuned") for seed in seeds}
    first = next(iter(tuned.values()))
    return {
        **provenance(),
        "settings": settings,
        "seeds": list(seeds),
        "baseline": {
            **{name: first[name] for name in COSTS},
            "top1_choosing": {seed: one["top1_choosing"] for seed, one in tuned.items()},
        },
        "arms": rows,
        "not_run": [arm for arm in ARMS if arm not in arms],
    }


if __name__ == "__main__":
    main()
