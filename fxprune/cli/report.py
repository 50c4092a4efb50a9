"""``fxprune report``: what a training run did, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fxprune.cli.options import html_option, json_option, print_json, write_page
from fxprune.run_record import read_run
from fxprune.run_results import results_text, trainings_told


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option("folder, finished, settings, epochs, finetuning, the last scales, report")
@html_option
def report(run: Path, as_json: bool, html_file: Path | None) -> None:
    """Summarise the training run in the folder RUN, finished or not; with --html, with plots over time."""
    if as_json and html_file is not None:
        raise click.UsageError("--json and --html exclude one another")
    record = read_run(run)
    if as_json:
        print_json(record.to_json())
        return
    if html_file is None:
        click.echo(str(record))
        return
    from fxprune.render.run_page import run_page

    write_page(html_file, run_page(record))


def show_results(report: Mapping[str, Any], out: Path, as_json: bool) -> None:
    """Print what came of a run that is finished, from its report."""
    if as_json:
        print_json({"out": str(out), **report})
        return
    click.echo(results_text(report))
    if "ucp" in report:
        click.echo(trainings_told(report))
    click.echo(f"verified: largest relative difference {report['max_relative_difference']:.2g} (float64)")
    click.echo(f"the pruned model, report.json and diff.html are in {out}")


def show_finished(report: Mapping[str, Any], out: Path, as_json: bool) -> None:
    """Say in a line that the run in ``out`` is finished, and what came of it."""
    if as_json:
        print_json({"out": str(out), **report})
        return
    left, top1 = report["macs_after"] / report["macs_before"], report["accuracy_after"]
    told = f"{left:.1%} of the MACs left, held-out top-1 {top1:.2%}"
    click.echo(f"{out} holds this run, finished: {told}; fxprune report {out} tells more")
