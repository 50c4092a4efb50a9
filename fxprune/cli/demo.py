"""``fxprune demo``: all of it on small images that everybody has.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from fxprune.cli.options import REPORTED, json_option
from fxprune.cli.progress import saying
from fxprune.cli.report import show_finished, show_results
from fxprune.run_record import read_run
from fxprune.training.settings import Settings


@click.command()
@click.option("--seed", default=Settings.seed, help="Of the initial weights and the training.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fxprune-demo"), help="Folder to write.")
@json_option(REPORTED)
def demo(seed: int, out: Path, as_json: bool) -> None:
    """Train ResNet-20 on handwritten digits, prune half of it away, write the result (under 3 minutes)."""
    from fxprune.training.demo import record_of, run_demo
    from fxprune.training.folder import is_finished

    if is_finished(out, record_of(seed)):
        report = read_run(out).report
        assert report is not None
        show_finished(report, out, as_json)
        return
    show_results(run_demo(out, seed, saying(as_json)), out, as_json)
