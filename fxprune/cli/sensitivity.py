"""``fxprune sensitivity``: how much each part of a network is missed, before anything is pruned.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.graphs import Images, image_options
from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    collected,
    criterion_option,
    json_option,
    keeping_options,
    model_options,
    print_json,
)
from fxprune.cli.progress import progress_line

if TYPE_CHECKING:
    from fxprune.pruning.sensitivity.result import Sensitivity

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_WRITTEN = "sensitivity.json, sensitivity.html, plots, and plan-SHARE.json for each target"


@dataclass(frozen=True)
class Written:
    """Where the result is written, and how it is told."""

    out: Path | None
    as_json: bool

    def require_sense(self) -> None:
        """Raise an error now, and not after all runs, if the result cannot be written."""
        if self.out is not None:
            from fxprune.files import make_folder
            from fxprune.render.plots import plotting

            plotting()
            make_folder(self.out)

    def show(self, model: str, found: Sensitivity) -> None:
        """Print what was measured, and write it."""
        if self.out is not None:
            _write(self.out, model, found)
        if self.as_json:
            print_json({"model": model, **found.to_json(), "out": self.out and str(self.out)})
            return
        click.echo(str(found))
        if self.out is not None:
            click.echo(f"written to {self.out}")


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@image_options
@click.option("--what", default="all", help="convs, branches or channels, a mix (branches,channels), or all.")
@criterion_option
@click.option("--share", "shares", type=_SHARE, multiple=True, help="Share of each group; 0.25, 0.5 and 0.75.")
@click.option("--target-macs", "targets", type=_SHARE, multiple=True, help="Share of the MACs; 0.9 to 0.3.")
@click.option("--no-labels", is_flag=True, help="Leave the labels of the images aside.")
@keeping_options
@click.option("--out", type=click.Path(path_type=Path), help=f"Folder to write {_WRITTEN} to.")
@json_option("model, network, criterion, seconds, sites, not_measured, curve, out")
@collected("written", Written)
def sensitivity(model: str, given: Given, images: Images, written: Written, **options: Any) -> None:
    """Measure how much each conv, branch and share of channels of MODEL is missed, and what targets would cost.

    Nothing is pruned: each is left out of runs alone. fxprune apply takes the plans that --out writes.
    """
    if images.data is None:
        raise click.UsageError("sensitivity compares outputs on images; give --data")
    written.require_sense()
    from fxprune.pruning.sensitivity.study import IMAGES, Study

    labels = False if options.pop("no_labels") else None
    asked = {name: value for name, value in options.items() if value}
    graph_module = images.graph_of(model, given).eval()
    batches = images.batches()
    study = Study(graph_module, batches, labels=labels, images=images.count or IMAGES, **asked)
    click.echo(study.takes, err=True)
    written.show(model, progress_line("measuring")(study.measure)())


def _write(out: Path, model: str, found: Sensitivity) -> None:
    from fxprune.files import write_json, write_text
    from fxprune.render.sensitivity_page import sensitivity_page, sensitivity_plots

    told = found.to_json()
    write_json(out / "sensitivity.json", {"model": model, **told})
    write_text(out / "sensitivity.html", sensitivity_page(told, title=model, notes=found.notes))
    for name, svg in sensitivity_plots(told).items():
        write_text(out / f"{name}.svg", svg)
    for point in found.curve:
        if point.plan is not None:
            point.plan.save(out / f"plan-{point.target:g}.json")
