"""``fxprune demo | prune``: networks that are trained.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import (
    MODEL_HELP,
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
from fxprune.cli.report import show_finished, show_results
from fxprune.cli.teachers import of_random_weights, require_classes, teacher_of
from fxprune.cli.training_options import training_options
from fxprune.cli.untrained import prune_untrained
from fxprune.training.settings import Settings

if TYPE_CHECKING:
    from fxprune.emission.formats import Exports
    from fxprune.passes.chains import Norms
    from fxprune.training.goal import Goal

_GOAL = (
    "target_macs",
    "target_params",
    "target_memory",
    "strength",
    "layers",
    "what",
    "keep",
    "only",
    "norms",
    "plan",
)
_REPORTED = "out, and what report.json holds; progress goes to stderr"


@click.command()
@click.option("--seed", default=Settings.seed, help="Of the initial weights and the training.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fxprune-demo"), help="Folder to write.")
@json_option(_REPORTED)
def demo(seed: int, out: Path, as_json: bool) -> None:
    """Train ResNet-20 on handwritten digits, prune half of it away, write the result (under 3 minutes)."""
    from fxprune.training.demo import record_of, run_demo
    from fxprune.training.folder import is_finished

    if is_finished(out, record_of(seed)):
        show_finished(out, as_json)
        return
    show_results(run_demo(out, seed, _say_aside if as_json else _say), out, as_json)


@click.command(epilog=MODEL_HELP)
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
    "--strength",
    type=click.FloatRange(0, min_open=True),
    help="Shrink by an L1 of this fixed strength, instead of steering to the target.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Train what this file of fxprune plan, or plan.json of a run, has to zero, in its order.",
)
@click.option("--no-train", is_flag=True, help="Train nothing: choose, remove and repair on some hundred images.")
@click.option("--images", default=512, type=click.IntRange(min=8), help="Training images that --no-train looks at.")
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
@json_option(_REPORTED)
def prune(
    model: str, weights: Path | None, pretrained: bool, classes: int | None, data: str, out: Path, **options: Any
) -> None:
    """Fine-tune MODEL on your images, prune its layers or channels meanwhile, write the result to a folder.

    With --no-train nothing is trained: what goes is chosen, removed and repaired by least squares, in minutes.

    Killed at any moment, the same command goes on from its last checkpoint. On several GPUs or hosts:
    torchrun --nproc-per-node 4 -m fxprune prune MODEL ...
    """
    from fxprune.emission.formats import require_exporter
    from fxprune.sources.models import load_model
    from fxprune.training.batches import default_workers
    from fxprune.training.data import load_data
    from fxprune.training.engine import make_accelerator
    from fxprune.training.folder import is_finished, open_folder
    from fxprune.training.job import Run, prune_on_data, say_nothing
    from fxprune.training.untrained_job import Without

    images = {name: options.pop(name) for name in ("image_size", "in_memory", "on_bad_image")}
    teacher_weights: tuple[Path, ...] = options.pop("teacher_weights")
    exports: Exports = options.pop("exports")
    as_json: bool = options.pop("as_json")
    require_exporter(exports)
    goal_options = {name: options.pop(name) for name in _GOAL}
    if options["workers"] is None:
        options["workers"] = 0 if data == "digits" else default_workers()
    way = {name: options.pop(name) for name in ("no_train", "images", "criterion", "search")}
    settings = Settings(**options)
    _require_way(way["no_train"])
    _require_use(settings, goal_options, teacher_weights)
    goal = _goal(**goal_options)
    _seed(settings.seed)
    loaded = load_model(model, weights, classes, pretrained=pretrained)
    aloud = _say_aside if as_json else _say
    if way.pop("no_train"):
        for line in of_random_weights(model, weights, loaded, False):
            aloud(line)
        given = {"model": model, **_sources(weights, pretrained, ()), "data": data, **_shown(images)}
        no_train = Without(**way, workers=settings.workers, exports=exports)
        prune_untrained(loaded, load_data(data, **images), out, goal, no_train, given, as_json)
        return
    accelerator = make_accelerator(settings, out)
    say = aloud if accelerator.is_main_process else say_nothing
    untaught = settings.learns_from_teacher and not teacher_weights
    for line in of_random_weights(model, weights, loaded, untaught):
        say(line)
    known = [load_model(model, path, classes) for path in teacher_weights]
    if settings.distill:
        require_classes(dict(zip(teacher_weights, known, strict=True)) or {weights: loaded})
    read = load_data(data, **images)
    run = {"model": model, **_sources(weights, pretrained, teacher_weights), "data": data, **_shown(images)}
    what = {name: value or None for name, value in goal.options().items()}  # older runs have no patterns
    record = {**run, **what, **settings.shared()}
    if is_finished(out, record):
        if accelerator.is_main_process:
            show_finished(out, as_json)
        return
    with ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(open_folder(out, record))
        accelerator.wait_for_everyone()
        around, teacher = Run(say, run, accelerator, exports), teacher_of(known)
        report = prune_on_data(loaded.model, read, out, settings, goal=goal, run=around, teacher=teacher)
    if accelerator.is_main_process:
        show_results(report, out, as_json)


def _shown(images: Mapping[str, Any]) -> dict[str, Any]:
    return {name: images[name] for name in ("image_size", "in_memory")}


def _sources(weights: Path | None, pretrained: bool, teacher_weights: Sequence[Path]) -> dict[str, Any]:
    """Return what the record of a run tells of where weights are from."""
    return {
        "weights": weights and str(weights),
        "weights_sha256": weights and _sha256(weights),
        "pretrained": pretrained or None,
        "teacher_weights": [str(path) for path in teacher_weights],
        "teacher_weights_sha256": [_sha256(path) for path in teacher_weights],
    }


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _goal(strength: float | None, norms: Norms | None, plan: Path | None, **named: Any) -> Goal:
    """Return what is asked for; half of the MACs, where that is nothing."""
    from fxprune.choosing.targets import Targets
    from fxprune.pruning.pruning_plan import PruningPlan
    from fxprune.training.goal import Goal

    known = None if plan is None else PruningPlan.load(plan)
    kept: dict[str, Any] = {name: list(named.pop(name)) for name in ("keep", "only")}
    layers, what = (named.pop(name) for name in ("layers", "what"))
    targets = Targets.of_options(named)
    if targets.is_empty and strength is None and known is None:
        targets = Targets(macs=0.5)
    return Goal(targets, strength, layers, what=what, **kept, norms=norms or Goal.norms, plan=known)


def _require_way(no_train: bool) -> None:
    """Raise UsageError for an option of a training with --no-train, or of that without it."""
    given = click.get_current_context().get_parameter_source
    of_training = {*(field.name for field in fields(Settings))} - {"workers", "seed"} | {
        "strength",
        "teacher_weights",
    }
    for option in of_training if no_train else ("images", "criterion", "search"):
        if given(option) is click.core.ParameterSource.COMMANDLINE:
            name = f"--{option.replace('_', '-')}"
            raise click.UsageError(
                f"{name} is of a training: leave it out" if no_train else f"{name} needs --no-train"
            )


def _require_use(settings: Settings, goal: Mapping[str, Any], teacher_weights: Sequence[Path]) -> None:
    """Raise UsageError for an option that would do nothing beside the others."""
    given = click.get_current_context().get_parameter_source
    strength = goal["strength"]
    for option, needed, is_there in (
        ("teacher_weights", "--distill or --distill-features", settings.learns_from_teacher),
        ("temperature", "--distill", settings.distill > 0),
        ("shrink_share", "no --strength", strength is None),
        ("target_memory", "no --strength", strength is None),
        ("target_params", "no --strength", strength is None),
        *((one, "no --plan: that says what goes", goal["plan"] is None) for one in goal.keys() - {"norms", "plan"}),
    ):
        if given(option) is click.core.ParameterSource.COMMANDLINE and not is_there:
            raise click.UsageError(f"--{option.replace('_', '-')} needs {needed}")
    if settings.distill_features and len(teacher_weights) > 1:
        raise click.UsageError("--distill-features learns from one teacher: give --teacher-weights once")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(message: str) -> None:
    click.echo(message)
    sys.stdout.flush()


def _say_aside(message: str) -> None:
    click.echo(message, err=True)
