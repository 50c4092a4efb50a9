"""``fxprune inspect | run | passes``: one graph, and what passes do to it.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    html_option,
    keeping_options,
    load_traced,
    model_options,
    write_page,
)
from fxprune.emission.seal import EXPORTS
from fxprune.errors import LoadError

if TYPE_CHECKING:
    from fxprune.rewriting.contract import Pass


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@keeping_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@html_option
def inspect(
    model: str,
    given: Given,
    as_json: bool,
    html_file: Path | None,
    **kept: Sequence[str],
) -> None:
    """List each conv and each residual branch of MODEL: eligible or why not, its MACs and parameters."""
    if as_json and html_file is not None:
        raise click.UsageError("--json and --html exclude one another")
    from fxprune.choosing.inspection import inspect_graph
    from fxprune.render.html import graph_page

    graph_module = load_traced(model, given)
    found = inspect_graph(graph_module, **kept)
    if html_file is not None:
        write_page(html_file, graph_page(graph_module, found, title=model))
        return
    click.echo(json.dumps({"model": model, **found.to_json()}, indent=2) if as_json else str(found))


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@click.option(
    "--passes", "spec", required=True, help='For example "insert-resconv{shortcut=1},fuse-resconv,simplify".'
)
@model_options
@keeping_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write the result to.")
@click.option("--format", "formats", multiple=True, type=click.Choice(list(EXPORTS)), help="Write this too.")
@click.option("--no-verify", is_flag=True, help="Do not hold the passes to their contracts.")
def run(
    model: str,
    spec: str,
    given: Given,
    out: Path | None,
    formats: Sequence[Any],
    no_verify: bool,
    **kept: Sequence[str],
) -> None:
    """Apply any chain of passes to MODEL in eval mode, and show what each did."""
    from fxprune.emission.emit import emit
    from fxprune.pipelines.pipeline import Pipeline
    from fxprune.pipelines.registry import parse_passes
    from fxprune.render.folder import write_diff

    passes = _keeping(parse_passes(spec), **kept)
    if out is not None and out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
    if out is not None:
        _require_empty(out)
    graph_module = load_traced(model, given).eval()
    result = Pipeline(passes, verify=not no_verify)(graph_module)
    click.echo(str(result))
    if out is not None:
        emit(result.graph_module, out, formats=formats)
        write_diff(out, graph_module, result.graph_module, [result], {"model": model})
        click.echo(f"written to {out}")


def _keeping(passes: list[Pass], keep: Sequence[str], only: Sequence[str]) -> list[Pass]:
    """Return ``passes`` with these patterns added to those of each that takes any."""
    from fxprune.rewriting.keeping_pass import KeepingPass

    if (keep or only) and not any(isinstance(one, KeepingPass) for one in passes):
        raise click.UsageError("--keep and --only are for passes that insert or remove layers; --passes has none")
    return [
        replace(one, keep=[*one.keep, *keep], only=[*one.only, *only]) if isinstance(one, KeepingPass) else one
        for one in passes
    ]


def _require_empty(out: Path) -> None:
    """Raise LoadError now, and not after all passes, if ``out`` cannot be written to."""
    from fxprune.files import make_folder

    is_new = not out.exists()
    make_folder(out)
    if any(out.iterdir()):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    if is_new:
        out.rmdir()


@click.command("passes")
def list_passes() -> None:
    """List the passes with their contracts and options."""
    from fxprune.pipelines.registry import known_passes, options_of
    from fxprune.rewriting.contract import Contract

    rows = []
    for name, kind in known_passes().items():
        options = ", ".join(f"{key}={field.default}" for key, field in options_of(kind).items())
        contract = kind.contract.name.lower() if isinstance(kind.contract, Contract) else "by options"
        rows.append([name, options, contract, (kind.__doc__ or "").strip().splitlines()[0]])
    click.echo(tabulate(rows, headers=["pass", "options", "keeps equal", "what it does"]))
    click.echo(
        "options are given in braces: fxprune run MODEL "
        "--passes 'insert-resconv,insert-branch-scale,remove-layers{target_macs=0.5},fuse-branch-scale,fuse-resconv'"
    )
