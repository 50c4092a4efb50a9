"""A searched blend of criteria against the best single one, the uniform blend, random factors and random channels.

    python -m benchmarks.accuracy.blend resnet20 --data imagefolder:DIR --weights resnet20.th --seed 0
    python -m benchmarks.accuracy.blend resnet20 --data imagefolder:DIR --weights resnet20.th --table

The first makes the rows of a seed that are not there yet, the second writes results/blend_NETWORK.json of all seeds
that are. The baseline is that of benchmarks.accuracy.channels. Each row cuts its channels for one target, measures
batch norms anew (0 epochs) and trains it for an epoch:

    blend             factors and members found by evolution: population x generations evaluations
    random factors    the best of as many blends that are drawn
    uniform blend     every cluster counts the same, by its middle member
    best single       the best criterion of the pool alone
    random channels   channels that are drawn

All but the last are chosen by the same fitness, top-1 on ``--images`` of the training images that are held out;
criteria and norms see as many others. Test images are seen by finished networks alone. Rows keep which of them each
network has right, so that differences from the blend have a paired standard error. A search that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from torch.utils.data import Subset

import fxprune
from benchmarks import RESULTS
from benchmarks.accuracy.channel_arms import Work
from benchmarks.accuracy.channels import prepared
from benchmarks.accuracy.paired import difference, packed, unpacked
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from benchmarks.provenance import provenance
from fxprune.choosing.criterion_blend import Blend
from fxprune.costs.macs import total_macs
from fxprune.files import write_json
from fxprune.passes import RemoveChannels
from fxprune.pruning.blend.controls import best_single, random_blend, uniform_blend
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.blend.search import BlendSettings, evolved
from fxprune.training.batches import loader
from fxprune.training.data import sample_batches

EPOCHS = (0, 1)
OURS = "blend"


@dataclass(frozen=True)
class Contest:
    """What all rows of a seed have in common."""

    judge: Judge
    settings: BlendSettings
    seed: int
    folder: Path

    @property
    def evaluations(self) -> int:
        """How many blends the search judges, those that it meets again included."""
        return self.settings.population * self.settings.generations


def main() -> None:
    """Make the rows of one seed that are not there yet, or write the record of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a CIFAR ResNet of benchmarks/networks.py")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs to leave")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out")
    parser.add_argument("--images", type=int, default=512, help="how many of these judge; as many others are seen")
    parser.add_argument("--population", type=int, default=BlendSettings.population)
    parser.add_argument("--generations", type=int, default=BlendSettings.generations)
    parser.add_argument("--lr-after", type=float, default=0.01, help="of the epoch after the cut")
    parser.add_argument("--row", choices=ROWS, nargs="+", help="make only these")
    parser.add_argument("--table", action="store_true", help="write the result of the seeds that were run")
    add_training_arguments(parser, epochs=12, lr=0.05)
    arguments = parser.parse_args()
    if arguments.table:
        write_json(RESULTS / f"blend_{arguments.network}.json", record(arguments.runs, arguments.network))
        return
    settings = settings_from(arguments)
    folder = arguments.runs / f"blend-{arguments.network}-seed{settings.seed}"
    work = prepared(arguments, settings, folder)
    contest = Contest(
        judge_of(work, arguments.images),
        BlendSettings(arguments.population, arguments.generations),
        settings.seed,
        folder,
    )
    for row in arguments.row or ROWS:
        make(row, work, contest, arguments.lr_after)


def judge_of(work: Work, images: int) -> Judge:
    """Return what judges on ``images`` that are held out; as many of the others are seen by criteria and norms."""
    count = len(work.data.held_out)  # type: ignore[arg-type]  # every map-style data set has a length
    held_out = Subset(work.data.held_out, range(min(images, count)))
    batches = loader(held_out, [list(range(len(held_out)))], workers=0)
    step = RemoveChannels(target_macs=work.target, only=work.only, seed=work.settings.seed)
    return Judge.of(work.traced(), sample_batches(work.data, images), step, held_out=batches)


def make(row: str, work: Work, contest: Contest, lr: float) -> None:
    """Make one row, unless it is there: its folder gets report.json."""
    out = contest.folder / row
    if (out / "report.json").exists():
        return
    out.mkdir(exist_ok=True)
    start = time.monotonic()
    gone, told = ROWS[row](contest)
    network = contest.judge.network(gone)
    report = {**told, "seconds": round(time.monotonic() - start, 1), "macs": total_macs(network), "after": []}
    for epochs in EPOCHS:
        if epochs:
            work.train(network, out, "training", replace(work.settings, epochs=epochs, lr=lr))
        right = work.right(network)
        after = {"epochs": epochs, "top1": float(right.mean()), "correct": packed(right), "images": len(right)}
        report["after"].append(after)
    write_json(out / "report.json", report)
    tops = ", ".join(f"{one['top1']:.2%} after {one['epochs']} epochs" for one in report["after"])
    print(f"{row}: {tops}", flush=True)


Found = tuple[Mapping[str, Any], dict[str, Any]]


def _judged(find: Callable[[Contest], Blend], contest: Contest) -> Found:
    blend = find(contest)
    return contest.judge.choice(blend.factors), {"top1_choosing": blend.top1, "factors": blend.factors}


def _drawn(contest: Contest) -> Found:
    judge = contest.judge
    step = replace(judge.step, criterion="random", seed=contest.seed)
    plan = fxprune.choose(judge.graph_module, targets=fxprune.Targets(macs=step.target_macs), **_options(step))
    return plan.indices, {}


def _options(step: RemoveChannels) -> dict[str, Any]:
    return {"criterion": step.criterion, "seed": step.seed, "only": step.only}


def _searched(contest: Contest) -> Blend:
    return evolved(contest.judge, contest.settings, state=contest.folder / OURS / "search.json", progress=tell)


def tell(done: int, of: int) -> None:
    """Print how far a search is, now and then."""
    if done % 20 == 0:
        print(f"{done} of {of} judged", flush=True)


ROWS: dict[str, Callable[[Contest], Found]] = {
    OURS: partial(_judged, _searched),
    "random factors": partial(
        _judged, lambda contest: random_blend(contest.judge, contest.evaluations, contest.seed, tell)
    ),
    "uniform blend": partial(_judged, lambda contest: uniform_blend(contest.judge)),
    "best single": partial(_judged, lambda contest: best_single(contest.judge)),
    "random channels": _drawn,
}


def record(runs: Path, network: str) -> dict[str, Any]:
    """Return the record of all seeds in ``runs``: means, rows by seed, and differences from the searched blend."""
    seeds = {int(one.name.rpartition("seed")[2]): one for one in sorted(runs.glob(f"blend-{network}-seed*"))}
    if not seeds:
        raise SystemExit(f"no seed of {network} was run in {runs}")
    rows: dict[str, dict[int, Any]] = {}
    for row in ROWS:
        files = {seed: folder / row / "report.json" for seed, folder in seeds.items()}
        rows[row] = {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}
    found = {row: _row(done, rows[OURS]) for row, done in rows.items() if done}
    return {**provenance("deap", "scipy"), "seeds": list(seeds), "rows": found}


def _row(done: dict[int, Any], ours: dict[int, Any]) -> dict[str, Any]:
    """Return what is told of a row: by epochs after the cut the mean, and how far the searched blend is above it."""
    after = []
    both = [seed for seed in done if seed in ours]
    for place, epochs in enumerate(EPOCHS):
        told: dict[str, Any] = {"epochs": epochs, "top1": mean(one["after"][place]["top1"] for one in done.values())}
        if both and done is not ours:
            right = [[_right(one[seed]["after"][place]) for seed in both] for one in (ours, done)]
            told["blend_above"], told["standard_error"] = difference(*right)
        after.append(told)
    return {"after": after, "seeds": {seed: _plain(one) for seed, one in done.items()}}


def _right(after: Mapping[str, Any]) -> Any:
    return unpacked(after["correct"], after["images"])


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without what only differences are made of."""
    after = [{name: one[name] for name in ("epochs", "top1")} for one in report["after"]]
    return {**{name: value for name, value in report.items() if name != "factors"}, "after": after}


if __name__ == "__main__":
    main()
