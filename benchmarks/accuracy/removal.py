"""Top-1 right after removal, with no training after it, at several shares of the MACs.

    python -m benchmarks.accuracy.removal resnet56 --data imagefolder:DIR --weights resnet56.th

One training in which scales are steered to zero, in a loop of its own, as a user would write it. As the MACs left
fall to each share, the layers at zero are removed from a copy: its top-1, and that of the network with its zeros,
must be the same, and the float64 outputs too. Writes results/removal_NETWORK.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.provenance import provenance
from fxprune.files import write_json
from fxprune.passes import RemoveLayers
from fxprune.pipelines.chains import insert_scales
from fxprune.sources.models import load_weights
from fxprune.training.batches import Seeded, loader, step_batches
from fxprune.training.data import load_data, sample_inputs
from fxprune.training.evaluation import evaluate

SHARES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.35]


def main() -> None:
    """Train, remove at every share, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=2, help="after which the last share is met")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    data = load_data(arguments.data, 32)
    network = getattr(networks, arguments.network)()
    load_weights(network, arguments.weights)
    traced = fxprune.trace(network, sample_inputs(data))
    unpruned = evaluate(traced, data.held_out, workers=arguments.workers)
    sparse = insert_scales(traced, "all").graph_module
    optimizer = torch.optim.SGD(
        fxprune.pruning.parameter_groups(sparse, 5e-4), lr=arguments.lr, momentum=0.9, nesterov=True
    )
    epochs = [step_batches(data.train_count, 128, seed=epoch) for epoch in range(arguments.epochs)]
    steps = sum(map(len, epochs))
    shrink = fxprune.SteeredL1(
        sparse, targets=fxprune.Targets(macs=SHARES[-1]), meet_after=steps, probe_inputs=(sample_inputs(data, 128),)
    )
    rows: list[dict[str, Any]] = []
    shares = list(SHARES)
    for epoch, batches in enumerate(epochs):
        sparse.train()
        for batch in loader(Seeded(data.train, epoch), batches, workers=arguments.workers):
            images, labels = batch
            loss = functional.cross_entropy(sparse(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
            shrink.step(arguments.lr)
            while shares and shrink.left <= shares[0]:
                rows.append({"share": shares.pop(0), **removed(sparse, shrink, data, arguments.workers)})
                print(rows[-1], flush=True)
    record = {
        **provenance(),
        "checkpoint_top1": unpruned,
        "rows": rows,
        "settings": {"epochs": arguments.epochs, "lr": arguments.lr, "batch_size": 128, "weight_decay": 5e-4},
    }
    write_json(RESULTS / f"removal_{arguments.network}.json", record)


def removed(sparse: Any, shrink: fxprune.SteeredL1, data: Any, workers: int) -> dict[str, Any]:
    """Remove the zeros from a copy and compare."""
    result = fxprune.Pipeline([RemoveLayers(threshold=0.0)])(sparse.eval())
    before = evaluate(sparse, data.held_out, workers=workers)
    after = evaluate(result.graph_module, data.held_out, workers=workers)
    sparse.train()
    return {
        "macs_left": shrink.left,
        "layers_removed": len(result.steps[0].result.rewritten),
        "top1_before": before,
        "top1_after": after,
        "change": after - before,
        "max_relative_difference": result.max_relative,
    }


if __name__ == "__main__":
    main()
