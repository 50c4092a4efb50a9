"""What becomes of a pruned network that is trained on, with its batch norms kept and with them folded.

    python -m benchmarks.accuracy.training_on resnet56 --data imagefolder:DIR --weights resnet56.th

The loop of docs/own-training-loop.md prunes the network to half of its MACs; both forms are emitted, loaded by their
own model.py, and trained on in plain PyTorch: SGD with momentum 0.9, without a warm-up. Writes
results/training_on_NETWORK.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.provenance import provenance
from fxprune.files import write_json
from fxprune.passes import RemoveLayers
from fxprune.sources.models import load_model, load_weights
from fxprune.training.batches import Seeded, loader, step_batches
from fxprune.training.data import ImageData, load_data, sample_inputs
from fxprune.training.evaluation import evaluate


@dataclass(frozen=True)
class Budget:
    """How long, and how, both trainings go on."""

    pruning_steps: int
    steps: int
    lr: float
    batch_size: int
    workers: int


def main() -> None:
    """Prune, emit both forms, train both on, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--pruning-steps", type=int, default=240)
    parser.add_argument("--steps", type=int, default=61)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    name, weights, data = options.pop("network"), options.pop("weights"), load_data(options.pop("data"), 32)
    budget = Budget(**options)
    network = getattr(networks, name)()
    load_weights(network, weights)
    traced = fxprune.trace(network, sample_inputs(data))
    cut = RemoveLayers(threshold=0.0)(pruned(traced, data, budget)).graph_module
    rows = [trained_on(cut, norms, data, budget) for norms in ("keep", "fold")]
    record = {**provenance(), "checkpoint_top1": top1(traced, data, budget), "settings": options, "rows": rows}
    write_json(RESULTS / f"training_on_{name}.json", record)


def pruned(traced: fx.GraphModule, data: ImageData, budget: Budget) -> fx.GraphModule:
    """Return the graph after that loop: half of the MACs at zero after half of the steps."""
    sparse = fxprune.insert_scales(traced).graph_module.train()
    groups = fxprune.pruning.parameter_groups(sparse, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    meet_after = budget.pruning_steps // 2
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.5), meet_after=meet_after)
    for images, labels in batches(data, budget, budget.pruning_steps, seed=0):
        step(sparse, optimizer, images, labels)
        shrink.step(optimizer.param_groups[0]["lr"])
    return sparse.eval()


def trained_on(cut: fx.GraphModule, norms: Any, data: ImageData, budget: Budget) -> dict[str, Any]:
    """Emit one form, load it without fxprune's help, train it on, and return what it came to."""
    with tempfile.TemporaryDirectory() as folder:
        source = fxprune.emit(cut, folder, norms=norms) / "model.py"
        model = load_model(f"{source}:load").model
    before, losses = top1(model, data, budget), []
    optimizer = torch.optim.SGD(model.train().parameters(), lr=budget.lr, momentum=0.9)
    for images, labels in batches(data, budget, budget.steps, seed=1):
        losses.append(step(model, optimizer, images, labels))
    row = {"norms": norms, "top1_before": before, "top1_after": top1(model, data, budget)}
    row |= {"first_loss": losses[0], "last_loss": losses[-1] if math.isfinite(losses[-1]) else None}
    print(row, flush=True)
    return row


def batches(data: ImageData, budget: Budget, steps: int, seed: int) -> Iterator[Any]:
    """Yield (images, labels) of so many steps."""
    for epoch in range(-(-steps * budget.batch_size // data.train_count) + 1):
        chosen = step_batches(data.train_count, budget.batch_size, seed=seed + 1000 * epoch)[:steps]
        steps -= len(chosen)
        if chosen:
            yield from loader(Seeded(data.train, seed + epoch), chosen, workers=budget.workers)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Take one step, and return the loss before it."""
    loss = functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    optimizer.step()
    return float(loss.detach())


def top1(model: nn.Module, data: ImageData, budget: Budget) -> float:
    """Return the held-out top-1."""
    return evaluate(model.eval(), data.held_out, workers=budget.workers)


if __name__ == "__main__":
    main()
