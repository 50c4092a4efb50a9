"""``fxprune inspect | run | passes``: one graph, and what passes do to it.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from fxprune.cli.inspecting import Shown
from fxprune.cli.options import (
    MODEL_HELP,
    Given,
    collected,
    export_options,
    html_option,
    json_option,
    keeping_options,
    load_traced,
    model_options,
    norms_option,
    print_json,
)
from fxprune.cli.progress import progress_line
from fxprune.errors import LoadError

if TYPE_CHECKING:
    from torch import fx

    from fxprune.emission.formats import Exports
    from fxprune.passes.chains import Norms
    from fxprune.pipelines.result import PipelineResult
    from fxprune.rewriting.contract import Pass
    from fxprune.training.data import ImageData

_IMAGES = 512


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@model_options
@keeping_options
@click.option("--channels", is_flag=True, help="List the groups of channels too.")
@click.option("--why", metavar="PATH", help="All that is known of one layer, or of those of one module.")
@json_option("model, its costs, convs, branches, linears, opaque, assumptions, channels")
@html_option
@collected("shown", Shown)
def inspect(model: str, given: Given, shown: Shown, **kept: Sequence[str]) -> None:
    """List each conv, residual branch and linear layer of MODEL: eligible or why not, its MACs and parameters.

    Of channels it says how many can go.
    """
    shown.require_sense()
    from fxprune.choosing.channel_inspection import inspect_channels
    from fxprune.choosing.inspection import inspect_graph

    graph_module = load_traced(model, given)
    shown.show(model, graph_module, inspect_graph(graph_module, **kept), inspect_channels(graph_module, **kept))


@dataclass(frozen=True)
class Images:
    """Images of the user's: as example inputs, and for passes that look at data."""

    data: str | None
    image_size: int | None
    count: int | None

    def graph_of(self, model: str, given: Given) -> fx.GraphModule:
        """Return the graph of the model that is so named: on images, or on random inputs where there are none."""
        if self.data is None:
            return load_traced(model, given)
        from fxprune.tracing.trace import trace
        from fxprune.training.data import sample_inputs

        if given.input_shape is not None:
            raise click.UsageError("--data and --input exclude one another: images have their own shape")
        images = sample_inputs(self._loaded)
        return trace(given.load(model).model, images)

    @cached_property
    def _loaded(self) -> ImageData:
        from fxprune.training.data import load_data

        assert self.data is not None
        return load_data(self.data, self.image_size)

    def batches(self) -> list[Any] | None:
        """Return so many of the images as were asked for, with their labels; None if there are no images."""
        if self.data is None:
            if self.count is not None:
                raise click.UsageError("--images needs --data")
            return None
        from fxprune.training.data import sample_batches

        return list(sample_batches(self._loaded, self.count or _IMAGES))

    def given_to(self, passes: Sequence[Pass]) -> list[Pass]:
        """Return ``passes``, of which those that rank layers do it by damage, if there are images.

        Those that take ``data`` get so many of the images, with their labels.
        """
        if self.data is None:
            if self.count is not None:
                raise click.UsageError("--images needs --data")
            return list(passes)
        return [self._given_to(one) for one in passes]

    def _given_to(self, one: Any) -> Any:
        from fxprune.choosing.criteria.half_gate import HalfGate
        from fxprune.pipelines.registry import options_of

        options = options_of(type(one))
        if "rank" in options and one.rank is None:
            one = replace(one, rank=HalfGate.name)
        if "data" in options and one.data is None:
            one = replace(one, data=self.batches())
        return one


_data_option = click.option(
    "--data", help="Example inputs are images of it, by which layers are ranked: as for fxprune prune."
)
_size_option = click.option(
    "--image-size", type=click.IntRange(min=1), help="Side in pixels; 224 for a folder, 32 for CIFAR-10."
)
_count_option = click.option(
    "--images",
    "count",
    type=click.IntRange(min=1),
    help=f"How many of them passes get that look at data, with labels; {_IMAGES} by default.",
)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`Images`, as one value ``images``."""
    return _data_option(_size_option(_count_option(collected("images", Images)(command))))


@dataclass(frozen=True)
class Output:
    """Where a result is written, and as what."""

    norms: Norms | None
    out: Path | None
    exports: Exports

    def require_sense(self) -> None:
        """Raise an error now, and not after all passes, if the result cannot be written as it is wanted."""
        from fxprune.emission.formats import require_exporter

        if self.out is not None:
            _require_empty(self.out)
        elif self.exports.formats:
            raise click.UsageError("--format needs --out")
        require_exporter(self.exports)

    def write(self, model: str, before: fx.GraphModule, result: PipelineResult) -> None:
        """Write what came out, what was changed, and how images are prepared, if the model's folder says that."""
        if self.out is not None:
            from fxprune.emission.emit import emit
            from fxprune.render.folder import write_diff
            from fxprune.training.preprocessing import copy_preprocessing

            exports = self.exports
            emit(result.graph_module, self.out, formats=exports.formats, dynamic=exports.dynamic)
            write_diff(self.out, before, result.graph_module, [result], {"model": model})
            copy_preprocessing(Path(model), self.out)


_out_option = click.option("--out", type=click.Path(path_type=Path), help="Folder to write the result to.")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`Output`, as one value ``output``."""
    return norms_option(_out_option(export_options(collected("output", Output)(command))))


@click.command(epilog=MODEL_HELP)
@click.argument("model")
@click.option(
    "--passes", "spec", required=True, help='For example "insert-resconv{shortcut=1},fuse-resconv,simplify".'
)
@model_options
@image_options
@keeping_options
@output_options
@click.option("--no-verify", is_flag=True, help="Do not hold the passes to their contracts.")
@json_option("model, before, steps, max_relative_difference, warnings, out")
def run(
    model: str,
    spec: str,
    given: Given,
    images: Images,
    output: Output,
    no_verify: bool,
    as_json: bool,
    **kept: Sequence[str],
) -> None:
    """Apply any chain of passes to MODEL in eval mode, and show what each did.

    With --norms the passes that make a plain network come behind them.
    """
    from fxprune.passes.chains import FINISHING
    from fxprune.pipelines.pipeline import Pipeline
    from fxprune.pipelines.registry import parse_passes

    passes = _keeping(parse_passes(spec), **kept)
    output.require_sense()
    passes = images.given_to(passes)
    passes += FINISHING[output.norms] if output.norms else ()
    graph_module = images.graph_of(model, given).eval()
    with progress_line("applying passes"):
        result = Pipeline(passes, verify=not no_verify)(graph_module)
    if not as_json:
        click.echo(str(result))
    output.write(model, graph_module, result)
    if as_json:
        print_json({"model": model, **result.to_json(), "out": output.out and str(output.out)})
    elif output.out is not None:
        click.echo(f"written to {output.out}")


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
    """Raise LoadError if ``out`` cannot be written to, or is not empty."""
    from fxprune.files import make_folder

    if out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
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
    from fxprune.pipelines.registry import known_passes

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
    from fxprune.pipelines.registry import options_of
    from fxprune.rewriting.contract import Contract

    return {
        "name": name,
        "options": {key: _default(field) for key, field in options_of(kind).items()},
        "contract": kind.contract.name.lower() if isinstance(kind.contract, Contract) else "by options",
        "help": (kind.__doc__ or "").strip().splitlines()[0],
    }


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
