"""``fxprune inspect | run | passes``: one graph, and what passes do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

import fxprune
from fxprune.choosing.inspection import inspect_graph
from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    export_options,
    html_option,
    json_option,
    keeping_options,
    load_traced,
    model_options,
    print_json,
    write_page,
)
from fxprune.emission.formats import Exports, require_exporter
from fxprune.errors import LoadError
from fxprune.files import make_folder
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.registry import known_passes, options_of, parse_passes
from fxprune.render.folder import write_diff
from fxprune.render.html import graph_page
from fxprune.rewriting.contract import Pass
from fxprune.rewriting.keeping_pass import KeepingPass
from fxprune.training.preprocessing import copy_preprocessing


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@keeping_options
@json_option("model, its costs, convs, branches, opaque, assumptions")
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
    graph_module = load_traced(model, given)
    found = inspect_graph(graph_module, **kept)
    if html_file is not None:
        write_page(html_file, graph_page(graph_module, found, title=model))
        return
    if as_json:
        print_json({"model": model, **found.to_json()})
    else:
        click.echo(str(found))


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@click.option(
    "--passes", "spec", required=True, help='For example "insert-resconv{shortcut=1},fuse-resconv,simplify".'
)
@model_options
@keeping_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write the result to.")
@export_options
@click.option("--no-verify", is_flag=True, help="Do not hold the passes to their contracts.")
@json_option("model, before, steps, max_relative_difference, warnings, out")
def run(
    model: str,
    spec: str,
    given: Given,
    out: Path | None,
    exports: Exports,
    no_verify: bool,
    as_json: bool,
    **kept: Sequence[str],
) -> None:
    """Apply any chain of passes to MODEL in eval mode, and show what each did."""
    passes = _keeping(parse_passes(spec), **kept)
    if out is not None and out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
    if out is not None:
        _require_empty(out)
    elif exports.formats:
        raise click.UsageError("--format needs --out")
    require_exporter(exports)
    graph_module = load_traced(model, given).eval()
    result = Pipeline(passes, verify=not no_verify)(graph_module)
    if not as_json:
        click.echo(str(result))
    if out is not None:
        fxprune.emit(result.graph_module, out, formats=exports.formats, dynamic=exports.dynamic)
        write_diff(out, graph_module, result.graph_module, [result])
        copy_preprocessing(Path(model), out)
    if as_json:
        print_json({"model": model, **result.to_json(), "out": out and str(out)})
    elif out is not None:
        click.echo(f"written to {out}")


def _keeping(passes: list[Pass], keep: Sequence[str], only: Sequence[str]) -> list[Pass]:
    """Return ``passes`` with these patterns added to those of each that takes any."""
    if (keep or only) and not any(isinstance(one, KeepingPass) for one in passes):
        raise click.UsageError("--keep and --only are for passes that insert or remove layers; --passes has none")
    return [
        replace(one, keep=[*one.keep, *keep], only=[*one.only, *only]) if isinstance(one, KeepingPass) else one
        for one in passes
    ]


def _require_empty(out: Path) -> None:
    """Raise LoadError now, and not after all passes, if ``out`` cannot be written to."""
    is_new = not out.exists()
    make_folder(out)
    if any(out.iterdir()):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    if is_new:
        out.rmdir()


@click.command("passes")
@json_option("passes, each with name, options and their defaults, contract, help")
def list_passes(as_json: bool) -> None:
    """List the passes with their contracts and options."""
    found = [_told(name, kind) for name, kind in known_passes().items()]
    if as_json:
        print_json({"passes": found})
        return
    rows = [
        [
            one["name"],
            ", ".join(f"{key}={value}" for key, value in one["options"].items()),
            one["contract"],
            one["help"],
        ]
        for one in found
    ]
    click.echo(tabulate(rows, headers=["pass", "options", "keeps equal", "what it does"]))
    click.echo(
        "options are given in braces: fxprune run MODEL "
        "--passes 'insert-resconv,insert-branch-scale,remove-layers{target_macs=0.5},fuse-branch-scale,fuse-resconv'"
    )


def _told(name: str, kind: type[Pass]) -> dict[str, Any]:
    """Return what is listed of a pass."""
    return {
        "name": name,
        "options": {key: field.default for key, field in options_of(kind).items()},
        "contract": kind.contract.name.lower() if isinstance(kind.contract, fxprune.Contract) else "by options",
        "help": (kind.__doc__ or "").strip().splitlines()[0],
    }
