"""CIFAR ResNets pruned by the shell command, against the same checkpoint fine-tuned for as many epochs.

    python -m benchmarks.accuracy.cifar10 resnet56 --data imagefolder:DIR --weights resnet56.th --targets 0.7 0.5 0.35
    python -m benchmarks.accuracy.cifar10 resnet110 --data cifar10:DIR --targets 0.345 --epochs 200 --lr 0.1 \\
        --shrink-share 0.5 --precision bf16 --in-memory    # on a GPU: images are decoded once, and augmented there

Runs a plain fine-tuning and ``fxprune prune`` for each target, with the same settings, then measures all networks
side by side and writes results/cifar10_NETWORK.json; ``--name`` keeps another schedule apart. Every arm goes on from
its checkpoint after a kill; with ``--arm baseline`` or ``--arm 0.5`` it is one of them alone, so that several can run
at a time; without, it measures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.cli import cli
from fxprune.costs.latency.measured_latency import compare_latency
from fxprune.costs.macs import total_macs, total_params
from fxprune.emission.emit import load_emitted
from fxprune.files import write_json
from fxprune.passes import FoldBatchNorm, Simplify
from fxprune.sources.models import load_weights
from fxprune.training.data import load_data, sample_inputs
from fxprune.training.engine import hardware, make_accelerator
from fxprune.training.evaluation import evaluate
from fxprune.training.metrics import epochs
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Settings

IMAGE_SIZE = 32
BATCH_SIZES = (1, 64)


def main() -> None:
    """Run the arms that are not done yet, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", type=Path, help="without, all arms start from scratch, from the same weights")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5], help="shares of MACs to leave")
    parser.add_argument("--arm", help="baseline, or one of the targets: run only that, measure nothing")
    parser.add_argument("--shrink-share", type=float, default=0.25)
    parser.add_argument("--distill", type=float, default=0.0, help="with the fine-tuned baseline as the teacher")
    parser.add_argument("--distill-features", type=float, default=0.0, help="as for fxprune prune")
    parser.add_argument(
        "--teachers", type=Path, nargs="+", help="weights of other teachers, whose mean it is: no arm waits for them"
    )
    parser.add_argument("--layers", default="all", help="as for fxprune prune")
    parser.add_argument(
        "--baseline",
        type=Path,
        help="a result of this script: its baseline, of the same schedule, serves again",
    )
    parser.add_argument(
        "--name", help="of runs and result, for another schedule beside the first; the network's if left out"
    )
    add_training_arguments(parser, epochs=8, lr=0.05)
    arguments = parser.parse_args()

    if arguments.arm not in (None, "baseline", *map(str, arguments.targets)):
        parser.error(f"--arm {arguments.arm} is neither baseline nor one of the targets")
    settings = settings_from(arguments)
    if arguments.baseline is not None and (
        arguments.arm == "baseline" or (settings.learns_from_teacher and not arguments.teachers)
    ):
        parser.error("--baseline trains none: leave --arm baseline out, and name --teachers to distill from")
    name = arguments.name or arguments.network
    folder = arguments.runs / f"{name}-cifar10-seed{settings.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.baseline is None and arguments.arm in (None, "baseline"):
        fine_tune(arguments, settings, folder)
    for target in arguments.targets:
        if arguments.arm in (None, str(target)):
            prune(arguments, settings, target, folder)
    if arguments.arm is None:
        write_json(RESULTS / f"cifar10_{name}.json", measure(arguments, settings, folder))


def fine_tune(arguments: argparse.Namespace, settings: Settings, folder: Path) -> None:
    """Train the unpruned network for as long as the others; its folder gets weights.pt and report.json."""
    out = folder / "baseline"
    out.mkdir(exist_ok=True)
    if (out / "report.json").exists():
        return
    data = load_data(arguments.data, IMAGE_SIZE, in_memory=arguments.in_memory)
    torch.manual_seed(settings.seed)  # as the shell does
    network = build(arguments.network, arguments.weights)
    alone = Settings(**{**asdict(settings), "distill": 0.0, "distill_features": 0.0})
    session = Session(out / "checkpoint.pt", out / "metrics.jsonl")
    rows = train(network, data, alone, print, session=session)
    top1 = evaluate(network, data.held_out, workers=settings.workers)  # in float32, as the pruned ones
    network = network.cpu().to(memory_format=torch.contiguous_format)
    torch.save(network.state_dict(), out / "weights.pt")
    trained_on = hardware(make_accelerator(alone))
    write_json(out / "report.json", {"top1": top1, "path": epochs(rows), "hardware": trained_on})


def prune(arguments: argparse.Namespace, settings: Settings, target: float, folder: Path) -> None:
    """Run the shell command for one target."""
    out = folder / f"target-{target}"
    if (out / "report.json").exists():
        return
    command = ["prune", f"{networks.__file__}:{arguments.network}", "--data", arguments.data]
    command += ["--weights", str(arguments.weights)] if arguments.weights else []
    command += ["--image-size", str(IMAGE_SIZE), "--target-macs", str(target)]
    command += ["--layers", arguments.layers, "--out", str(out)]
    command += ["--in-memory"] if arguments.in_memory else []
    command += ["--compile"] if settings.compile else []
    command += ["--cuda-graphs"] if settings.cuda_graphs else []
    for name in ("epochs", "lr", "batch_size", "shrink_share", "precision", "seed", "workers"):
        command += ["--" + name.replace("_", "-"), str(getattr(settings, name))]
    if settings.learns_from_teacher:
        command += ["--distill", str(settings.distill), "--distill-features", str(settings.distill_features)]
        for teacher in arguments.teachers or [folder / "baseline" / "weights.pt"]:
            command += ["--teacher-weights", str(teacher)]
    cli(command, standalone_mode=False)


def measure(arguments: argparse.Namespace, settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the record: accuracies as the runs reported them, costs, and latencies taken side by side."""
    baseline = build(arguments.network, None if arguments.baseline else folder / "baseline" / "weights.pt").eval()
    traced = fxprune.trace(baseline, sample_inputs(load_data(arguments.data, IMAGE_SIZE)))
    costs = {"macs": total_macs(traced), "params": total_params(traced)}
    if arguments.baseline is None:
        own = _read(folder / "baseline")
    else:
        own = known_baseline(arguments.baseline, {**settings.shared(), **costs})
    folded = fxprune.Pipeline([FoldBatchNorm(), Simplify()])(traced).graph_module
    reports = {target: _read(folder / f"target-{target}") for target in arguments.targets}
    models = {str(target): load_emitted(folder / f"target-{target}") for target in arguments.targets}
    latency = {}
    for batch_size in BATCH_SIZES:
        times = compare_latency({"baseline": folded, **models}, batch_size, repeats=30)
        ratios = {name: time / times["baseline"] for name, time in times.items()}
        latency[str(batch_size)] = {"ms": times, "ratio": ratios}
    pruned = {}
    for target, report in reports.items():
        names = ("accuracy_before_removal", "accuracy_after_removal", "layers_removed", "layers_removable")
        pruned[str(target)] = {
            "top1": report["accuracy_after"],
            "against_baseline": report["accuracy_after"] - own["top1"],
            "macs": report["macs_after"],
            "params": report["params_after"],
            **{name: report[name] for name in (*names, "max_relative_difference", "path", "seconds")},
            "distill": report["settings"]["distill"],  # arms may differ in these
            "distill_features": report["settings"].get("distill_features", 0.0),
            "teachers": 1 if isinstance(report["teacher_weights"], str) else len(report["teacher_weights"]),
            "shrink_share": report["settings"]["shrink_share"],
            "hardware": report["hardware"],
            "versions": report["versions"],
        }
    return {
        **provenance(),
        "checkpoint_top1": next(iter(reports.values()))["accuracy_before"],
        "baseline": {**own, **costs},
        "pruned": pruned,
        "latency": latency,
        "settings": {
            **settings.shared(),
            "layers": arguments.layers,
            "weights": arguments.weights and arguments.weights.name,
        },
    }


def known_baseline(result: Path, mine: dict[str, Any]) -> dict[str, Any]:
    """Return the baseline of another result, which names it; ends the program if schedule or network differ."""
    record: dict[str, Any] = json.loads(result.read_text())
    known = {**record["settings"], **record["baseline"]}
    for name in ("epochs", "lr", "batch_size", "weight_decay", "label_smoothing", "seed", "macs", "params"):
        if known[name] != mine[name]:
            raise SystemExit(f"the baseline of {result} has {name} {known[name]}, not {mine[name]}")
    return {**record["baseline"], "of": result.stem, "precision": record["settings"]["precision"]}


def build(name: str, weights: Path | None) -> nn.Module:
    """Return a network of networks.py with these weights, or with random ones."""
    network: nn.Module = getattr(networks, name)()
    if weights is not None:
        load_weights(network, weights)
    return network


def _read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


if __name__ == "__main__":
    main()
