"""``fxprune latency``: where a network's time goes, before anything is pruned.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    html_option,
    json_option,
    load_traced,
    model_options,
    print_json,
    write_page,
)
from fxprune.cli.progress import progress_line
from fxprune.cli.timed import Timed, timed_options


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@timed_options
@click.option("--device", help="cpu by default; cuda, cuda:1, ...")
@click.option("--dtype", help="Of weights and inputs, as torch names it; float32 by default.")
@click.option("--layout", type=click.Choice(["contiguous", "channels_last"]), help="Of images in memory.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long measuring may take at most.")
@json_option("model, conditions, batch, predicted_ms, measured_ms, spread, ops, sites, stairs, notes")
@html_option
def latency(model: str, given: Given, timed: Timed, as_json: bool, html_file: Path | None, **options: Any) -> None:
    """Measure where the time of MODEL goes, op by op, and what each removal could save.

    Its ops are timed alone at many widths, and random prunings of it as wholes; both are kept for the next time.
    """
    if as_json and html_file is not None:
        raise click.UsageError("--json and --html exclude one another")
    if html_file is not None:
        from fxprune.render.plots import plotting

        plotting()  # an error now, and not after all was measured
    from fxprune.pruning.latency_inspection import inspect_latency
    from fxprune.pruning.latency_model import LatencyModel

    graph_module = load_traced(model, given).eval()
    given_options = {name: value for name, value in options.items() if value is not None}
    with progress_line("measuring"):
        measured = LatencyModel.measure(graph_module, **timed.conditions, **given_options)
        found = inspect_latency(graph_module, measured)
    if as_json:
        print_json({"model": model, **found.to_json()})
    else:
        click.echo(str(found))
    if html_file is not None:
        from fxprune.render.latency_page import latency_page

        write_page(html_file, latency_page(found.to_json(), title=model))
