"""``fxprune diff``: two models, or what a run did.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxprune.cli.options import (
    Given,
    collected,
    html_option,
    model_options,
    trace_loaded,
    write_page,
)
from fxprune.cli.progress import progress_line
from fxprune.diffing.entries import KINDS, Kind
from fxprune.errors import LoadError, TraceError, did_you_mean
from fxprune.run_record import run_title
from fxprune.sources import FORMS

if TYPE_CHECKING:
    from torch import fx

    from fxprune.diffing.graph_diff import GraphDiff
    from fxprune.diffing.text import Line

_FORMATS: dict[str, Callable[[GraphDiff], str]] = {
    "json": lambda found: json.dumps(found.to_json(), indent=1) + "\n",
    "dot": lambda found: found.to_dot(),
    "graphml": lambda found: found.to_graphml(),
}
_HELP = f"""BEFORE and AFTER: {FORMS}, or a .pt2 file (with --trust). Reading a folder runs no code of it; a factory
is code that you name, and it is run. Exit code: 0 the graphs are the same, 1 they differ, 2 trouble."""


@dataclass(frozen=True)
class View:
    """How a diff is shown: the options of the shell that say so, which exclude one another."""

    stat: bool
    kinds: Sequence[Kind]
    only: Sequence[Kind]
    why: str | None
    form: str | None
    html_file: Path | None

    def require_sense(self) -> None:
        """Raise UsageError if several are given; warn of the one that is deprecated."""
        if self.only:
            click.echo("fxprune: warning: --only is deprecated: write --kinds", err=True)
        given = (self.stat, bool(self.kinds or self.only), self.why is not None, self.form is not None)
        if sum((*given, self.html_file is not None)) > 1:
            raise click.UsageError("--stat, --kinds, --why, --format and --html exclude one another")

    def show(self, found: GraphDiff, before: str, after: str | None) -> None:
        """Print ``found``, the diff of two models or, with no ``after``, of a run; or write it to a page."""
        from fxprune.diffing.text import statistics, unified
        from fxprune.render.terminal import show

        if self.form is not None:
            click.echo(_FORMATS[self.form](found), nl=False)
        elif self.html_file is not None:
            _write_page(self.html_file, found, before, after)
        elif self.why is not None:
            show(_story(found, self.why))
        else:
            show(statistics(found) if self.stat else unified(found, (*self.kinds, *self.only)))


@click.command("diff", epilog=_HELP)
@click.argument("before")
@click.argument("after", required=False)
@click.option("--stat", is_flag=True, help="One line a module.")
@click.option("--kinds", multiple=True, type=click.Choice(KINDS), help="Only these; may be given again.")
@click.option("--only", multiple=True, type=click.Choice(KINDS), hidden=True)
@click.option("--why", metavar="NODE", help="The story of one node, or of the nodes of one module.")
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), help="Print this instead of text.")
@click.option("--json", "form", flag_value="json", help="As --format json: one JSON object alone.")
@model_options
@html_option
@click.option("--trust", is_flag=True, help="Read .pt2 files, which can run any code.")
@collected("view", View)
def diff_command(before: str, after: str | None, view: View, given: Given, trust: bool) -> int:
    """Show what is different between two models, or, of the folder of one run, what the run did.

    Options on weights, classes and input are for models that are named, not for folders and files.
    """
    view.require_sense()
    from fxprune.render.folder import read_diff

    try:
        found = read_diff(Path(before)) if after is None else _compare(before, after, given, trust)
        view.show(found, before, after)
    except Exception as error:
        error.exit_code = 2  # type: ignore[attr-defined]  # read by main: trouble, as of diff(1)
        raise
    return int(found.differs)


def _write_page(file: Path, found: GraphDiff, before: str, after: str | None) -> None:
    from fxprune.render.folder import read_about
    from fxprune.render.html import page
    from fxprune.render.measured import measured_in

    about = read_about(Path(before)) if after is None else {}
    title = run_title(about) or before if after is None else f"{before} and {after}"
    write_page(file, page([], found, title=title, measured=measured_in(about)))


def _story(found: GraphDiff, name: str) -> list[Line]:
    from fxprune.diffing.text import story

    lines = story(found, name) or story(found, name.removesuffix(".branch_scale"))  # as reports name a branch
    if not lines:
        nodes = [node for change in found.changes for node in (*change.before, change.main)]
        known = {name for node in nodes for name in (node.name, node.path) if name}
        within = [one for one in sorted(known) if name in one.replace("_", ".").split(".") or name in one.split(".")]
        hint = f"; there is {', '.join(within[:3])}" if within else did_you_mean(name, known)
        raise LoadError(f"neither graph has a node or a module {name!r}{hint}")
    return lines


def _compare(before: str, after: str, given: Given, trust: bool) -> GraphDiff:
    """Read what needs no example inputs first: a model that is named is traced on those of the other."""
    from fxprune.diffing.diff import diff

    read = [_read(spec, trust) for spec in (before, after)]
    like = next((shape for graph in read if (shape := _input_shape(graph)) is not None), None)
    graphs = []
    for spec, graph in zip((before, after), read, strict=True):
        graphs.append(_trace(spec, given, like) if graph is None else graph)
    return diff(graphs[0], graphs[1])


@progress_line("loading a model")
def _trace(spec: str, given: Given, like: tuple[int, ...] | None) -> fx.GraphModule:
    import torch

    torch.manual_seed(0)
    loaded = given.load(spec)
    if like is not None:
        try:
            return trace_loaded(loaded, given.input_shape, like)
        except TraceError:  # a network for other inputs: the diff will say so
            if given.input_shape is not None:
                raise
    return trace_loaded(loaded, given.input_shape)


def _read(spec: str, trust: bool) -> fx.GraphModule | None:
    """Return the graph that lies in the file or folder ``spec``; None if it is the name of a model."""
    from fxprune.emission.emit import is_emitted, load_emitted
    from fxprune.sources.exported import load_exported

    path = Path(spec)
    if path.suffix == ".pt2":
        return load_exported(path, trust=trust)
    if is_emitted(path):
        return load_emitted(path)
    if path.exists():
        kind = "a folder without graph.json" if path.is_dir() else "a file, but no .pt2 file"
        raise LoadError(f"{spec} is no model that fxprune reads: it is {kind}")
    return None


def _input_shape(graph_module: fx.GraphModule | None) -> tuple[int, ...] | None:
    import torch

    from fxprune.ir.nodes import EXAMPLE_INPUTS

    inputs: Any = None if graph_module is None else graph_module.meta.get(EXAMPLE_INPUTS)
    if not inputs:
        return None
    return tuple(inputs[0].shape) if len(inputs) == 1 and isinstance(inputs[0], torch.Tensor) else None
