"""``fxprune report``: what a training run did, finished or not."""

from __future__ import annotations

from pathlib import Path

import click

from fxprune.cli.options import html_option, write_page
from fxprune.run_record import read_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@html_option
def report(run: Path, html_file: Path | None) -> None:
    """Summarise the training run in the folder RUN, finished or not; with --html, with plots over time."""
    record = read_run(run)
    if html_file is None:
        click.echo(str(record))
        return
    from fxprune.render.run_page import run_page

    write_page(html_file, run_page(record))
