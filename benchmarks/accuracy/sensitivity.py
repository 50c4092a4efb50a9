"""Whether ``fxprune.sensitivity`` ranks single removals as their real loss of top-1 does, on images it has not seen.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.sensitivity resnet20 --data imagefolder:DIR --weights resnet20.th

It measures every conv, branch and group of channels at shares that are drawn, on training images; then of each of
some removals that are drawn, of all three kinds, the network is really cut, and its top-1 on all test images is
compared with that of the whole one. Writes results/sensitivity_NETWORK.json: each removal, and the rank correlation
(Spearman) of each figure with the real loss. ``missed`` is the one by which fxprune ranks; others are told beside it.

"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import fx

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.paired import correct, difference
from benchmarks.provenance import provenance
from fxprune.choosing.fingerprint import fingerprint
from fxprune.files import write_json
from fxprune.pruning.sensitivity.result import Sensitivity, SiteSensitivity
from fxprune.sources.models import load_weights
from fxprune.training.data import load_data, sample_batches, sample_inputs

IMAGE_SIZE = 32
SHARES = 4
MIX = {"conv": 0.3, "branch": 0.15, "channels": 0.55}
SIGNS = {"missed": 1, "loss": 1, "agreement": -1, "top1": -1, "moved": 1, "saves_macs": 1}
"""What is compared with the real loss, and whether it rises with it."""


def main() -> None:
    """Measure, cut, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--data", required=True, help="as for fxprune prune")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--images", type=int, default=768, help="training images to measure on")
    parser.add_argument("--removals", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the shares and removals that are drawn")
    arguments = parser.parse_args()
    data = load_data(arguments.data, IMAGE_SIZE)
    network = getattr(networks, arguments.network)()
    load_weights(network, arguments.weights)
    traced = fxprune.trace(network.eval(), sample_inputs(data)).eval()
    draw = random.Random(arguments.seed)
    shares = sorted(round(draw.uniform(0.05, 0.95), 3) for _ in range(SHARES))
    images = sample_batches(data, arguments.images)
    found = fxprune.sensitivity(traced, images, shares=shares, targets=(), images=arguments.images)
    chosen = drawn(found, arguments.removals, draw)
    print(f"{len(found.sites)} removals measured in {found.seconds:.0f} s; {len(chosen)} of them are cut", flush=True)
    rows = [{**one.to_json(), **real} for one, real in zip(chosen, real_losses(traced, chosen, data), strict=True)]
    record = {
        **provenance("scipy"),
        "settings": {"images": arguments.images, "seed": arguments.seed, "shares": shares},
        "seconds_of_sensitivity": round(found.seconds, 1),
        "measured": len(found.sites),
        "top1_measured_on": found.whole.top1,
        "rank_correlation": correlations(rows),
        "rows": rows,
    }
    print(record["rank_correlation"])
    write_json(RESULTS / f"sensitivity_{arguments.network}.json", record)


def drawn(found: Sensitivity, count: int, draw: random.Random) -> list[SiteSensitivity]:
    """Return ``count`` of what was measured, so many of each kind as :data:`MIX` says, or as there are."""
    by_kind = {kind: [one for one in found.sites if one.kind == kind] for kind in MIX}
    chosen: list[SiteSensitivity] = []
    for kind, sites in sorted(by_kind.items(), key=lambda item: len(item[1])):
        wanted = count - len(chosen) if kind == "channels" else round(count * MIX[kind])
        chosen += draw.sample(sites, min(wanted, len(sites)))
    return chosen


def real_losses(traced: fx.GraphModule, chosen: Sequence[SiteSensitivity], data: Any) -> list[dict[str, float]]:
    """Return, of each removal, what top-1 on the held-out images loses by the cut, with its standard error."""
    images = in_memory(data.held_out)
    before = correct(fxprune.PruningPlan((), fingerprint(traced)).apply(traced, norms="fold").graph_module, images)
    print(f"{before.mean():.2%} of {len(images)} test images", flush=True)
    found = []
    for number, one in enumerate(chosen, start=1):
        plan = fxprune.PruningPlan(one.planned, fingerprint(traced))
        after = correct(plan.apply(traced, norms="fold", verify=False).graph_module, images)
        lost, error = difference([before], [after])
        found.append({"top1_lost": lost, "top1_lost_error": error})
        print(f"{number} {one.kind} {one.path} {one.goes}/{one.width}: {one.moved.missed:.4f} {lost:.4f}", flush=True)
    return found


def in_memory(images: Any) -> torch.utils.data.TensorDataset:
    """Return a data set with all images decoded."""
    pixels, labels = zip(*(images[index] for index in range(len(images))), strict=True)
    return torch.utils.data.TensorDataset(torch.stack(pixels), torch.tensor(labels))


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return Spearman's rank correlation of each figure with the real loss of top-1; at best 1."""
    lost = [row["top1_lost"] for row in rows]
    return {
        name: round(float(spearmanr([sign * row[name] for row in rows], lost).statistic), 4)
        for name, sign in SIGNS.items()
    }


if __name__ == "__main__":
    main()
