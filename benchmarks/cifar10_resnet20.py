"""ResNet-20 on CIFAR-10: pruned by the shell command, against the same checkpoint fine-tuned for as long.

    python benchmarks/cifar10_resnet20.py --data imagefolder:DIR --weights resnet20.th

Runs ``fxprune prune`` and a plain fine-tuning for as many epochs (both go on from their checkpoints after a
kill), measures both networks' latency side by side, and writes results/cifar10_resnet20.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch
from networks import resnet20

import fxprune
from fxprune.cli import cli
from fxprune.emit import load_emitted
from fxprune.facts.costs import total_macs, total_params
from fxprune.latency import compare_latency
from fxprune.models import load_weights
from fxprune.passes import FoldBatchNorm, Simplify
from fxprune.training.data import load_data, sample_inputs
from fxprune.training.loop import evaluate
from fxprune.training.recipe import Settings, train

HERE = Path(__file__).parent
IMAGE_SIZE = 32


def main() -> None:
    """Run what is not done yet, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--target-macs", type=float, default=0.5)
    parser.add_argument("--lr", type=float, default=0.1, help="of the pruned network, which has more to relearn")
    parser.add_argument("--baseline-lr", type=float, default=0.05)
    parser.add_argument("--layers", default="convs", help="as for fxprune prune")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the two runs")
    arguments = parser.parse_args()

    out = arguments.runs / "resnet20-cifar10"
    command = ["prune", "benchmarks/networks.py:resnet20", "--weights", str(arguments.weights)]
    command += ["--data", arguments.data, "--image-size", str(IMAGE_SIZE), "--epochs", str(arguments.epochs)]
    command += ["--target-macs", str(arguments.target_macs), "--lr", str(arguments.lr)]
    command += ["--layers", arguments.layers]
    command += ["--workers", str(arguments.workers), "--out", str(out)]
    if not (out / "report.json").exists():
        cli(command, standalone_mode=False)
    report = json.loads((out / "report.json").read_text())

    data = load_data(arguments.data, IMAGE_SIZE)
    baseline = resnet20()
    load_weights(baseline, arguments.weights)
    settings = Settings(epochs=arguments.epochs, lr=arguments.baseline_lr, workers=arguments.workers)
    train(baseline, data, settings, print, checkpoint=arguments.runs / "resnet20-cifar10-baseline.pt")
    baseline = baseline.to(memory_format=torch.contiguous_format).eval()
    traced = fxprune.trace(baseline, sample_inputs(data, 16))
    folded = fxprune.Pipeline([FoldBatchNorm(), Simplify()])(traced).graph_module
    pruned = load_emitted(out)
    latency = {}
    for batch_size in (1, 64):
        times = compare_latency({"baseline": folded, "pruned": pruned}, batch_size, repeats=30)
        latency[str(batch_size)] = {**times, "ratio": times["pruned"] / times["baseline"]}
    result = {
        "command": "fxprune " + " ".join(_without_folders(command)),
        "checkpoint_top1": report["accuracy_before"],
        "baseline": {
            "lr": arguments.baseline_lr,
            "top1": evaluate(baseline, data.held_out, workers=arguments.workers),
            "macs": total_macs(traced),
            "params": total_params(traced),
        },
        "pruned": {
            "top1": evaluate(pruned, data.held_out, workers=arguments.workers),
            "macs": total_macs(pruned),
            "params": total_params(pruned),
            "layers_removed": report["layers_removed"],
            "layers_removable": report["layers_removable"],
            "max_relative_difference": report["max_relative_difference"],
        },
        "latency_ms": latency,
        "settings": report["settings"],
        "versions": report["versions"],
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
    }
    (HERE / "results" / "cifar10_resnet20.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _without_folders(command: list[str]) -> list[str]:
    """Return the command with folders of this machine reduced to their last part."""
    words = []
    for word in command:
        kind, colon, folder = word.rpartition(":")
        is_path = folder.startswith("/")
        words.append(f"{kind}{colon}{Path(folder).name}" if is_path else word)
    return words


if __name__ == "__main__":
    main()
