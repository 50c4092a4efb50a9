"""``fxprune prune --no-train``: pruning on some hundred images, repaired by least squares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.progress import progress_line
from fxprune.cli.report import show_finished, show_results

if TYPE_CHECKING:
    from fxprune.sources.models import LoadedModel
    from fxprune.training.data import ImageData
    from fxprune.training.goal import Goal
    from fxprune.training.untrained_job import Without


def prune_untrained(
    loaded: LoadedModel,
    data: ImageData,
    out: Path,
    goal: Goal,
    way: Without,
    given: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Prune a model without training, write the folder ``out``, print what came of it; goes on after a kill."""
    from fxprune.training.folder import is_finished, open_folder
    from fxprune.training.untrained_job import prune_on_images

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(
            "--no-train runs in one process: leave torchrun out (in Python passes.Repair takes it)"
        )
    record = {**given, **way.options(), **{name: value or None for name, value in goal.options().items()}}
    if is_finished(out, record):
        show_finished(out, as_json)
        return
    with open_folder(out, record), progress_line("looking at the images"):
        report = prune_on_images(
            loaded.model, data, out, goal, way, lambda line: click.echo(line, err=as_json), given
        )
    show_results(report, out, as_json)
