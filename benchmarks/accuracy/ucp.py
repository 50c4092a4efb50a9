"""Widths by gates of attention (UCP, arXiv 2010.01251) against uniform and random widths, all trained from scratch.

    python -m benchmarks.accuracy.ucp vgg11 --data imagefolder:DIR --in-memory --precision bf16 --seed 0
    python -m benchmarks.accuracy.ucp vgg11 --data imagefolder:DIR --table

The first trains the arms of a seed that are not done yet (``--arm`` one alone), the second writes
results/ucp_NETWORK.json of all seeds that are. Every network is trained from scratch for ``--epochs``, with the same
images in the same order, its weights drawn anew by the seed, as fxprune.passes.ResetWeights does:

    unpruned                  the network as it is
    with gates                a gate of attention behind each judged conv: says the widths
    UCP                       the widths that one alpha leaves of ``--target`` of the MACs
    uniform, MACs             the same share of every judged conv, at the MACs of UCP; "parameters": at its parameters
    random, MACs              another share of each, drawn by the seed; likewise
    UCP, a small rate         ``--small`` of the MACs, where the paper claims that nothing is lost

Training images are held out to choose on, as in channels.py; the test images are seen by finished networks alone.
Runs keep which of them each network has right, so that differences have a paired standard error. An arm that was
killed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

import fxprune
from benchmarks import RESULTS, networks
from benchmarks.accuracy.arms import done_in, read, require_alike, run, seeds_in
from benchmarks.accuracy.channel_arms import Work
from benchmarks.accuracy.paired import row_of, without_choosing
from benchmarks.accuracy.training_arguments import add_arm_arguments, add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.costs.macs import total_macs, total_params
from fxprune.files import write_json
from fxprune.passes import ResetWeights
from fxprune.pruning.ucp.attention import insert_attention, measure_attention
from fxprune.pruning.ucp.controls import control_widths
from fxprune.pruning.ucp.widths import Widths, choose_widths
from fxprune.training.batches import in_order, loader
from fxprune.training.data import load_data

GATES = "with gates"
OURS = "UCP"
UNPRUNED = "unpruned"
SMALL = "UCP, a small rate"


def main() -> None:
    """Run the arms that are not done yet, or write the table of those that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a network of benchmarks/networks.py")
    parser.add_argument("--small", type=float, default=0.9, help="share that the small rate leaves")
    add_arm_arguments(parser, ARMS)
    add_training_arguments(parser, epochs=30, lr=0.1)
    arguments = parser.parse_args()
    if arguments.table:
        write_json(RESULTS / f"ucp_{arguments.network}.json", record(arguments.runs, arguments.network))
        return
    work, folder = prepared(arguments)
    for arm in arguments.arm or ARMS:
        train_arm(arm, work, folder)


def prepared(arguments: argparse.Namespace) -> tuple[Work, Path]:
    """Return what the arms of a seed start from, and their folder, which keeps the settings."""
    settings = settings_from(arguments)
    folder = arguments.runs / f"ucp-{arguments.network}-seed{settings.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(arguments.data, networks.image_size(arguments.network), in_memory=arguments.in_memory)
    data, test = without_choosing(data, arguments.choosing, settings.seed)
    torch.manual_seed(settings.seed)
    work = Work(getattr(networks, arguments.network)().eval(), data, test, settings, arguments.target, [])
    traced = work.traced()
    named = {name: getattr(arguments, name) for name in ("target", "small", "choosing")}
    images = len(test)  # type: ignore[arg-type]  # every map-style data set has a length
    told = {
        "settings": {**settings.shared(), **named},
        "macs": total_macs(traced),
        "params": total_params(traced),
        "test_images": images,
    }
    told = json.loads(json.dumps(told))
    if (folder / "settings.json").exists() and (known := _read(folder / "settings.json")) != told:
        raise SystemExit(f"{folder} was run with other settings, {known}: use the same, or other --runs")
    write_json(folder / "settings.json", told)
    return work, folder


def train_arm(arm: str, work: Work, folder: Path) -> dict[str, Any]:
    """Train an arm, unless it is done, and return its report."""
    run(arm, folder, work.settings.seed, partial(ARMS[arm], work, folder))
    return read(folder / arm)


def reset(work: Work, graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of ``graph`` with weights that are drawn anew by the seed."""
    return copy.deepcopy(ResetWeights(work.settings.seed)(graph).graph_module)


def unpruned(work: Work, folder: Path, out: Path) -> dict[str, Any]:
    """Train the network as it is."""
    network = reset(work, work.traced())
    return work.finished(network, work.train(network, out, "training", work.settings))


def with_gates(work: Work, folder: Path, out: Path) -> dict[str, Any]:
    """Train with gates of attention, and measure these on all training images."""
    graph = insert_attention(reset(work, work.traced()), seed=work.settings.seed).graph_module
    path = work.train(graph, out, "training", work.settings)
    images = loader(work.data.plain_train, in_order(work.data.train_count, 256), workers=work.settings.workers)
    gates = measure_attention(graph, images)
    return {**work.finished(graph, path), "gates": {name: gate.tolist() for name, gate in gates.items()}}


def at_widths(work: Work, folder: Path, out: Path, widths: Callable[[Work, Path], Widths]) -> dict[str, Any]:
    """Train a plain network of these widths."""
    found = widths(work, folder)
    network = reset(work, found.plan.apply(work.traced()).graph_module)
    path = work.train(network, out, "training", work.settings)
    kept = {name: after for name, (_, after) in found.widths.items()}
    return {**work.finished(network, path), "alpha": found.alpha, "judged_widths": kept}


def by_gates(work: Work, folder: Path, small: bool = False) -> Widths:
    """Return the widths that the gates tell, for the target or the small rate."""
    gates = train_arm(GATES, work, folder)["gates"]
    share = _read(folder / "settings.json")["settings"]["small" if small else "target"]
    return choose_widths(work.traced(), gates, fxprune.Targets(macs=share))


def control(work: Work, folder: Path, cost: str, random: bool) -> Widths:
    """Return uniform or random widths at the MACs, or at the parameters, of UCP's."""
    ours, whole = train_arm(OURS, work, folder), _read(folder / "settings.json")
    targets = fxprune.Targets(**{cost: ours[cost] / whole[cost]})
    return control_widths(work.traced(), targets, seed=work.settings.seed if random else None)


ARMS: dict[str, Callable[[Work, Path, Path], dict[str, Any]]] = {
    UNPRUNED: unpruned,
    GATES: with_gates,
    OURS: partial(at_widths, widths=by_gates),
    **{
        f"{kind}, {told}": partial(at_widths, widths=partial(control, cost=cost, random=kind == "random"))
        for cost, told in (("macs", "MACs"), ("params", "parameters"))
        for kind in ("uniform", "random")
    },
    SMALL: partial(at_widths, widths=partial(by_gates, small=True)),
}


def record(runs: Path, network: str) -> dict[str, Any]:
    """Return the record of all seeds in ``runs``: every arm against UCP, and UCP's small rate against unpruned."""
    seeds = seeds_in(runs, f"ucp-{network}")
    told = {seed: _read(folder / "settings.json") for seed, folder in seeds.items()}
    settings = require_alike({seed: one["settings"] for seed, one in told.items()})
    first, arms = next(iter(told.values())), done_in(seeds, ARMS)
    compared = {arm: arms.get(UNPRUNED if arm == SMALL else OURS, {}) for arm in arms}
    rows = {arm: row_of(done, compared[arm], first["test_images"]) for arm, done in arms.items()}
    return {
        **provenance(),
        "settings": settings,
        "seeds": list(seeds),
        "unpruned": {name: first[name] for name in ("macs", "params")},
        "compared_with": {arm: UNPRUNED if arm == SMALL else OURS for arm in arms},
        "arms": rows,
        "not_run": [arm for arm in ARMS if arm not in arms],
    }


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    main()
