"""Ways to bring layer scales to zero for a target, everything else equal: which of them keeps the accuracy, and why.

    python -m benchmarks.accuracy.shrinking resnet20 --data imagefolder:DIR --weights resnet20.th \\
        --precision bf16 --in-memory

Every arm trains the same checkpoint for as many epochs. In the first part its scales are shrunk; then the layers with
the smallest scales are cut until the target is met (those at zero go without loss), and the rest trains on.

    steered             one layer after the other, as SteeredL1 does: zero before the cut
    steered, branches   the same, with the scales of residual branches too: what ``fxprune prune`` does
    at once             the same choice of layers, all closed at the first step
    all gates           a proximal L1 of one strength on all gates, from which the loss may hold them back
    raw scales          the same on the paper's own scale s, with s and the shortcut as parameters

Writes results/shrinking_NETWORK.json; an arm that is done is kept in ``--runs`` (``--arm`` runs one alone).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.nn import functional

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs
from fxprune.files import write_json
from fxprune.passes import InsertResConv, RemoveLayers
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.own_loops import parameter_groups
from fxprune.pruning.proximal import ProximalL1
from fxprune.sources.models import load_weights
from fxprune.structures.gated_layers import layers
from fxprune.training.batches import Seeded, loader, step_batches, steps_per_epoch
from fxprune.training.data import ImageData, load_data, sample_inputs
from fxprune.training.evaluation import evaluate
from fxprune.training.settings import Schedule, Settings

IMAGE_SIZE = 32
ARMS = ("steered", "steered, branches", "at once", "all gates", "raw scales")
FALL = 0.8
"""How far a scale that nothing holds falls from 1 under the fixed strength."""


def main() -> None:
    """Run the arms that are not done yet, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs to leave")
    parser.add_argument("--shrink-share", type=float, default=0.25)
    parser.add_argument("--arm", choices=ARMS, help="run only this one")
    add_training_arguments(parser, epochs=6, lr=0.05)
    arguments = parser.parse_args()

    settings = settings_from(arguments)
    data = load_data(arguments.data, IMAGE_SIZE, in_memory=arguments.in_memory)
    arms = {}
    for arm in ARMS if arguments.arm is None else (arguments.arm,):
        done = arguments.runs / f"shrinking-{arguments.network}-seed{settings.seed}" / f"{arm}.json"
        done.parent.mkdir(parents=True, exist_ok=True)
        if not done.exists():
            network = getattr(networks, arguments.network)()
            load_weights(network, arguments.weights)
            traced = fxprune.trace(network, sample_inputs(data))
            write_json(done, run(arm, traced, data, settings, arguments.target))
        arms[arm] = json.loads(done.read_text())
        print(arm, arms[arm], flush=True)
    if arguments.arm is None:
        record = {**provenance(), "arms": arms, "settings": {**settings.shared(), "target": arguments.target}}
        write_json(RESULTS / f"shrinking_{arguments.network}.json", record)


def run(arm: str, traced: fx.GraphModule, data: ImageData, settings: Settings, target: float) -> dict[str, Any]:
    """Train one arm; return its top-1 before the cut, right after it and at the end, and the scales before it."""
    torch.manual_seed(settings.seed)
    per_epoch = steps_per_epoch(data.train_count, settings.batch_size)
    schedule = Schedule(settings.lr, per_epoch * settings.epochs)
    until = round(schedule.total_steps * settings.shrink_share)
    graph = inserted(arm, traced).to(memory_format=torch.channels_last)
    shrink = shrinking(arm, graph, data, schedule, until, target)
    optimizer = optimizer_of(graph, settings)
    found: dict[str, Any] = {"path": []}
    step = 0
    for epoch in range(settings.epochs):
        graph.train()
        batches = step_batches(data.train_count, settings.batch_size, settings.seed + epoch)
        for images, labels in loader(Seeded(data.train, settings.seed + epoch), batches, workers=settings.workers):
            for group in optimizer.param_groups:
                group["lr"] = schedule.at(step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = graph(images.contiguous(memory_format=torch.channels_last))
            functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step <= until:
                shrink.step(schedule.at(step - 1))
            if step == until:
                found["scales"] = sorted(round(layer.module.effective_scale, 4) for layer in layers(graph))
                found["top1_before"] = evaluate(graph, data.held_out)
                graph = RemoveLayers(threshold=0.0, target_macs=target)(graph.eval()).graph_module.train()
                found["top1_after"] = evaluate(graph, data.held_out)
                found["macs_left"] = total_macs(graph) / total_macs(traced)
                optimizer = optimizer_of(graph, settings)
        found["path"].append({"epoch": epoch + 1, "top1": evaluate(graph, data.held_out)})
    return found


def inserted(arm: str, traced: fx.GraphModule) -> fx.GraphModule:
    """Return the graph with the scales that ``arm`` trains."""
    if arm == "raw scales":
        return InsertResConv(parametrization="free")(traced).graph_module
    return insert_scales(traced, "all" if arm == "steered, branches" else "convs").graph_module


def shrinking(
    arm: str, graph: fx.GraphModule, data: ImageData, schedule: Schedule, until: int, target: float
) -> ProximalL1:
    """Return what shrinks the scales of ``arm`` in the first ``until`` steps."""
    if arm in ("all gates", "raw scales"):
        return ProximalL1(graph, FALL / sum(schedule.at(step) for step in range(until)))
    steps = 1 if arm == "at once" else until
    return fxprune.SteeredL1(
        graph, targets=fxprune.Targets(macs=target), meet_after=steps, probe_inputs=(sample_inputs(data, 128),)
    )


def optimizer_of(graph: fx.GraphModule, settings: Settings) -> torch.optim.Optimizer:
    """Return a new optimizer of the graph's parameters, as the shell command has it."""
    groups = parameter_groups(graph, settings.weight_decay)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


if __name__ == "__main__":
    main()
