"""``fxprune prune``: its options, and what they say together.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import (
    MODEL_HELP,
    REPORTED,
    classes_option,
    criterion_option,
    export_options,
    json_option,
    keeping_options,
    norms_option,
    pretrained_option,
    weights_option,
    what_option,
)
from fxprune.cli.partitioning import Partition, partition_options
from fxprune.cli.pruning_checks import TARGETS, is_timed, require_method, require_use, require_way
from fxprune.cli.report import show_finished, show_results
from fxprune.cli.timed import Timed, timed_options
from fxprune.cli.training_options import training_options
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from fxprune.cli.pruning_job import Done
    from fxprune.passes.chains import Norms
    from fxprune.training.goal import Goal

_GOAL = (
    *TARGETS,
    "strength",
    "layers",
    "what",
    "keep",
    "only",
    "norms",
    "plan",
)


class _WithFrontier(click.Command):
    """A command whose option --frontier takes all numbers behind it."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        return super().parse_args(context, spread("--frontier", arguments))


def spread(option: str, arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` with an option in front of each of the numbers behind it."""
    found: list[str] = []
    is_behind = False
    for one in arguments:
        if is_behind and _is_number(one) and found[-1] != option:
            found.append(option)
        elif not _is_number(one):
            is_behind = one == option
        found.append(one)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(epilog=MODEL_HELP, cls=_WithFrontier)
@click.argument("model")
@weights_option
@pretrained_option
@classes_option
@click.option("--data", required=True, help="digits, cifar10:DIR or imagefolder:DIR.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; resumes what is there.")
@click.option(
    "--target-macs",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of MACs to leave; 0.5 unless a strength or another target is given.",
)
@click.option(
    "--target-memory",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share to leave of the most memory that activations take at a time in inference; none asked for by default.",
)
@click.option(
    "--target-params",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the parameters to leave; none asked for by default.",
)
@click.option(
    "--target-ms",
    type=click.FloatRange(0, min_open=True),
    help="Milliseconds that the pruned network may take, measured here on --backend; none asked for by default.",
)
@click.option(
    "--target-latency",
    type=click.FloatRange(0, 1, min_open=True),
    help="The same as a share of what the network takes unpruned.",
)
@click.option(
    "--frontier",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    metavar="SHARE ...",
    help="Several such shares, 0.8 0.6 0.4: one run on the way down, a saved network for each, a page of all.",
)
@timed_options
@click.option("--latency-device", help="Where times are measured: on --device if that is given, else on the CPU.")
@click.option(
    "--strength",
    type=click.FloatRange(0, min_open=True),
    help="Shrink by an L1 of this fixed strength, instead of steering to the target.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Train what this file of fxprune plan, or plan.json of a run, has to zero, in its order.",
)
@click.option(
    "--method",
    type=click.Choice(["ucp"]),
    help="Uniform channel pruning: train with gates of attention, then a plain network of the widths that they tell, "
    "both from scratch.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, min_open=True),
    help="Of --method ucp: channels stay whose gate is above this share of the mean of their layer; by default found "
    "for the target.",
)
@click.option("--no-train", is_flag=True, help="Train nothing: choose, remove and repair on some hundred images.")
@partition_options
@click.option(
    "--images",
    default=512,
    type=click.IntRange(min=8),
    help="Training images that --no-train and --partition look at.",
)
@criterion_option
@click.option(
    "--search",
    type=click.Choice(["cap"]),
    help="How --no-train finds how many channels go: CaP's bisection on held-out accuracy, for --what channels.",
)
@what_option
@keeping_options
@norms_option
@training_options
@export_options
@json_option(REPORTED)
def prune(
    model: str,
    data: str,
    out: Path,
    timed: Timed,
    frontier: tuple[float, ...],
    partition: Partition,
    **options: Any,
) -> None:
    """Fine-tune MODEL on your images, prune its layers or channels meanwhile, write the result to a folder.

    With --no-train nothing is trained: what goes is chosen, removed and repaired by least squares, in minutes.
    With --method ucp two networks are trained from scratch, for --epochs each.
    With --partition the head's linear layers are split into blocks, and nothing else goes.

    Killed at any moment, the same command goes on from its last checkpoint. On several GPUs or hosts:
    torchrun --nproc-per-node 4 -m fxprune prune MODEL ...
    """
    from fxprune.cli.pruning_job import Images, Job, Source, along
    from fxprune.emission.formats import require_exporter
    from fxprune.training.batches import default_workers
    from fxprune.training.ucp_job import ByAttention
    from fxprune.training.untrained_job import Without

    images = Images(data, *(options.pop(name) for name in ("image_size", "in_memory", "on_bad_image")))
    source = Source(model, *(options.pop(name) for name in ("weights", "pretrained", "classes", "teacher_weights")))
    exports, as_json = options.pop("exports"), options.pop("as_json")
    require_exporter(exports)
    goal_options = {name: options.pop(name) for name in _GOAL}
    where = _latency_device(options.pop("latency_device"), options["device"])
    if options["workers"] is None:
        options["workers"] = 0 if data == "digits" else default_workers()
    way = {name: options.pop(name) for name in ("no_train", "images", "criterion", "search")}
    method, alpha = options.pop("method"), options.pop("alpha")
    settings = Settings(**options)
    require_method(method, goal_options, alpha)
    split = partition.way(goal_options, not way["no_train"], way["images"])
    asks_time = is_timed(goal_options) or bool(frontier)
    require_way(way["no_train"], () if partition.partition else ("images",), is_timed=asks_time)
    require_use(settings, goal_options, source.teacher_weights)
    if split is not None:
        _seed(settings.seed)
        _show(Job(source, images, settings, None, exports, as_json).split(out, split), out, as_json)
        return
    if method == "ucp":
        goal_options["what"] = "channels"
    goal = _goal(timed=timed, where=where, frontier=frontier, alpha=alpha, **goal_options)
    _seed(settings.seed)
    how = Without(**way, workers=settings.workers, exports=exports) if way.pop("no_train") else None
    job = Job(source, images, settings, ByAttention(alpha) if method else how, exports, as_json)
    if frontier:
        along(job, goal, frontier, out)
        return
    _show(job.run(out, goal), out, as_json)


def _show(done: Done | None, out: Path, as_json: bool) -> None:
    """Print what came of a run, in the main process."""
    if done is not None:
        (show_finished if done.is_old else show_results)(done.report, out, as_json)


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _latency_device(asked: str | None, device: str) -> dict[str, str]:
    """Return on which device times are measured, as an option of LatencyModel.measure; none: on the CPU."""
    found = asked or (None if device == Settings.device else device)
    return {} if found is None else {"device": found}


def _goal(
    strength: float | None,
    norms: Norms | None,
    plan: Path | None,
    timed: Timed,
    where: Mapping[str, str],
    frontier: Any,
    alpha: float | None,
    **named: Any,
) -> Goal:
    """Return what is asked for; half of the MACs, where that is nothing."""
    from fxprune.choosing.targets import Targets
    from fxprune.pruning.pruning_plan import PruningPlan
    from fxprune.training.goal import Goal

    known = None if plan is None else PruningPlan.load(plan)
    kept: dict[str, Any] = {name: list(named.pop(name)) for name in ("keep", "only")}
    layers, what = (named.pop(name) for name in ("layers", "what"))
    targets = Targets.of_options(named)
    if targets.is_empty and strength is None and known is None and alpha is None and not frontier:
        targets = Targets(macs=0.5)
    asked = click.get_current_context().params.get("latency_device")
    given = [*timed.given, *(["latency-device"] if asked else [])]
    if given and not targets.is_timed and not frontier:
        raise click.UsageError(f"--{given[0]} needs --target-ms, --target-latency or --frontier")
    if frontier and not (targets.is_empty and strength is None and known is None):
        raise click.UsageError("--frontier says what is asked for: leave other targets, --strength and --plan out")
    conditions = {**timed.conditions, **where}
    return Goal(targets, strength, layers, what=what, **kept, norms=norms or Goal.norms, plan=known, timed=conditions)
