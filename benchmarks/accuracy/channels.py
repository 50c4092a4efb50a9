"""Channels trained to zero, against channels cut by criteria and by Torch-Pruning, from one baseline, for one target.

    python -m benchmarks.accuracy.channels resnet20 --data imagefolder:DIR --weights resnet20.th \\
        --precision bf16 --in-memory --seed 0
    python -m benchmarks.accuracy.channels resnet20 --data imagefolder:DIR --weights resnet20.th --table

The first trains the arms of a seed that are not done yet (``--arm`` one alone), the second writes
results/channels_NETWORK.json, or channels_NAME.json with ``--name``, of all seeds that are. The baseline is the
checkpoint, fine-tuned for ``--epochs``; each arm goes on from it for as many epochs, with the same images in the same
order:

    baseline trained on       nothing is cut
    trained to zero           SteeredL1 on gates of channels in the first quarter, tenth, or half, of the steps
    l1, at the widths of trained to zero   cut to these at once, then training: the control for how they closed
    CRITERION, uniform        RemoveChannels(target_macs=, scope="uniform"), then training; likewise "global"
    Torch-Pruning, L1         one ratio everywhere, then training
    Torch-Pruning, group lasso   its penalty in the first half of the epochs, a cut, training in the second

In CIFAR ResNets whose shortcuts have no parameters channels go in blocks only, since Torch-Pruning cannot cut the
others; of resnet20b, whose shortcuts are 1x1 convs, all may go. (It starts from the same checkpoint, these convs at
random.)

5,000 training images, the same for all arms of a seed, are held out to choose on: what an epoch or a cut comes to is
told on these, and the variants of a family are compared by them. (The checkpoint was trained on them too, by others.)
The test images are seen by finished networks alone. Runs keep which of them each network has right, so that
differences have a paired standard error. An arm that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.arms import Reports, done_in, read, require_alike, run, seeds_in
from benchmarks.accuracy.channel_arms import ARMS, FAMILIES, Work
from benchmarks.accuracy.paired import row_of, without_choosing
from benchmarks.accuracy.training_arguments import add_arm_arguments, add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs, total_params
from fxprune.files import write_json
from fxprune.sources.models import load_weights
from fxprune.training.data import load_data, sample_inputs
from fxprune.training.evaluation import evaluate
from fxprune.training.recipe import Session, train
from fxprune.training.settings import Settings

IMAGE_SIZE = 32
CHECKPOINT_OF = {"resnet20b": "resnet20"}
IN_BLOCKS = ["layer*.conv1"]
EVERYWHERE = ("resnet20b",)


def main() -> None:
    """Run the arms that are not done yet, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a CIFAR ResNet of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--name", help="of the result, beside that of other seeds; the network's by default")
    add_arm_arguments(parser, ARMS)
    add_training_arguments(parser, epochs=12, lr=0.05)
    arguments = parser.parse_args()
    if arguments.table:
        name = arguments.name or arguments.network
        write_json(RESULTS / f"channels_{name}.json", record(arguments.runs, arguments.network))
        return
    settings = settings_from(arguments)
    folder = arguments.runs / f"channels-{arguments.network}-seed{settings.seed}"
    work = prepared(arguments, settings, folder)
    for arm in arguments.arm or ARMS:
        run(arm, folder, settings.seed, partial(ARMS[arm], work))


def prepared(arguments: argparse.Namespace, settings: Settings, folder: Path) -> Work:
    """Return what the arms start from; fine-tunes the baseline, which the folder keeps."""
    data = load_data(arguments.data, IMAGE_SIZE, in_memory=arguments.in_memory)
    data, test = without_choosing(data, arguments.choosing, settings.seed)
    torch.manual_seed(settings.seed)
    network = checkpoint(arguments.network, arguments.weights)
    own = folder / "fine-tuned"
    own.mkdir(parents=True, exist_ok=True)
    weights, told = own / "weights.pt", own / "report.json"
    shared = {**settings.shared(), "target": arguments.target, "choosing": arguments.choosing}
    if told.exists() and (known := read(own)["settings"]) != shared:
        raise SystemExit(f"{own} was run with other settings, {known}: use the same, or other --runs")
    if not told.exists():
        before = evaluate(network, data.held_out, workers=settings.workers)
        train(network, data, settings, print, session=Session(own / "checkpoint.pt", own / "metrics.jsonl"))
        network.cpu().to(memory_format=torch.contiguous_format)
        torch.save(network.state_dict(), weights)
        traced = fxprune.trace(network.eval(), sample_inputs(data))
        top1 = {"checkpoint": before, "fine_tuned": evaluate(network, data.held_out, workers=settings.workers)}
        costs = {"macs": total_macs(traced), "params": total_params(traced)}
        images = len(test)  # type: ignore[arg-type]  # every map-style data set has a length
        write_json(told, {"top1_choosing": top1, **costs, "settings": shared, "test_images": images})
    network.load_state_dict(torch.load(weights, weights_only=True))
    only = [] if arguments.network in EVERYWHERE else IN_BLOCKS
    return Work(network.eval(), data, test, settings, arguments.target, only)


def checkpoint(name: str, weights: Path) -> nn.Module:
    """Return the network with the weights of the file; what its plain form lacks is drawn at random."""
    network: nn.Module = getattr(networks, name)()
    plain: nn.Module = getattr(networks, CHECKPOINT_OF.get(name, name))()
    load_weights(plain, weights)
    network.load_state_dict(plain.state_dict(), strict=False)
    return network


def record(runs: Path, network: str) -> dict[str, Any]:
    """Return the record of all seeds in ``runs``."""
    seeds = seeds_in(runs, f"channels-{network}")
    baselines = {seed: read(folder / "fine-tuned") for seed, folder in seeds.items()}
    settings = require_alike({seed: one["settings"] for seed, one in baselines.items()})
    first, arms = next(iter(baselines.values())), done_in(seeds, ARMS)
    chosen = {family: best for family in FAMILIES if (best := _best(family, arms))}
    ours = arms.get(chosen.get(FAMILIES[0], ""), {})
    return {
        **provenance("torch-pruning"),
        "settings": settings,
        "seeds": list(seeds),
        "baseline": {name: first[name] for name in ("macs", "params")}
        | {"top1_choosing": {seed: one["top1_choosing"] for seed, one in baselines.items()}},
        "chosen": chosen,
        "arms": {arm: row_of(done, ours, first["test_images"]) for arm, done in arms.items()},
        "not_run": [arm for arm in ARMS if arm not in arms],
    }


def _best(family: str, arms: dict[str, Reports]) -> str | None:
    """Return the arm of a family that is best on the images held out of training, by those run with most seeds."""
    own = {arm: done for arm, done in arms.items() if arm.startswith(family)}
    most = max(map(len, own.values()), default=0)
    full = {arm: list(done.values()) for arm, done in own.items() if len(done) == most}
    means = {arm: mean(one["top1_choosing"] for one in reports) for arm, reports in full.items()}
    return max(means, key=means.__getitem__, default=None)


if __name__ == "__main__":
    main()
