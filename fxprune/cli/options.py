"""What several commands share: how a model, its weights and its inputs are named.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fxprune.cli.progress import progress_line
from fxprune.emission.seal import EXPORTS
from fxprune.errors import LoadError
from fxprune.pipelines import SITES, Layers
from fxprune.sources import FORMS

if TYPE_CHECKING:
    from torch import fx

    from fxprune.emission.formats import Exports
    from fxprune.sources.models import LoadedModel

NORMS = ("fold", "keep")
"""The values of :data:`fxprune.passes.chains.Norms`, told without torch."""
REPORTED = "out, and what report.json holds; progress goes to stderr"
MODEL_HELP = f"MODEL: {FORMS}."
CRITERIA = (
    "l1",
    "l2",
    "bn-gamma",
    "fpgm",
    "taylor",
    "fisher",
    "apoz",
    "entropy",
    "read-share",
    "random",
    "damage",
    "cap",
    "blend",
)
"""Our criteria of channels, told without torch."""
criterion_option = click.option(
    "--criterion",
    metavar="NAME",
    help=f"How much is missed what may go: {', '.join(CRITERIA)}, or one of another package.",
)
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict to load: .safetensors, .pt, .pth."
)
pretrained_option = click.option(
    "--pretrained", is_flag=True, help="Load the weights that torchvision or timm have for MODEL, by their loaders."
)
classes_option = click.option("--classes", type=click.IntRange(min=1), help="Outputs of a torchvision or timm model.")
_input_option = click.option("--input", "input_shape", metavar="N,C,H,W", help="Shape of the example input.")
html_option = click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write one HTML file, to open in a browser.",
)
_keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Modules that stay, with all below them: layer4, or '*.conv3'; may be given again.",
)
_only_option = click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Layers outside of these modules stay; may be given again.",
)
_format_option = click.option(
    "--format", "formats", multiple=True, type=click.Choice(list(EXPORTS)), help="Write this too."
)
_dynamic_option = click.option(
    "--dynamic", is_flag=True, help="Let --format take images of any height and width; any number of them it does."
)


def json_option(holds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the option ``--json``: one object of what it ``holds``, alone on stdout."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print one JSON object alone: {holds}.")


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(content, indent=2))


norms_option = click.option(
    "--norms",
    type=click.Choice(NORMS),
    help="Batch norms of the plain network: fold them into the weights, for inference, or keep them, to train on.",
)


def collected(name: str, kind: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command those of its options that are fields of the dataclass ``kind`` as one value, ``name``."""
    return _together(name, kind, [field.name for field in fields(kind)])


def _together(
    name: str, kind: Callable[..., Any], names: Sequence[str]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options ``names`` as one value, ``name``, which ``kind`` makes of them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def taking(*args: Any, **options: Any) -> Any:
            value = kind(**{one: options.pop(one) for one in names})
            return command(*args, **{name: value}, **options)

        return taking

    return decorate


@dataclass(frozen=True)
class Given:
    """What is given beside the name of a model: where its weights are from, its classes, the shape of its input."""

    weights: Path | None
    pretrained: bool
    classes: int | None
    input_shape: str | None

    def load(self, model: str) -> LoadedModel:
        """Return the model that is so named, with its weights."""
        from fxprune.sources.models import load_model

        return load_model(model, self.weights, self.classes, pretrained=self.pretrained)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`Given`, as one value ``given``."""
    return weights_option(pretrained_option(classes_option(_input_option(collected("given", Given)(command)))))


def what_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the option ``--what``, and its old name ``--layers``."""
    what = click.option(
        "--what",
        metavar="SITES",
        help=f"What to prune: some of {', '.join(SITES)}, as convs,branches (the default with training), or all "
        "of the three (without).",
    )
    old = click.option(
        "--layers", type=click.Choice(get_args(Layers)), help="The old name of --what: all are convs and branches."
    )
    return what(old(command))


def keeping_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options ``--keep`` and ``--only`` (see :mod:`fxprune.choosing.keeping`)."""
    return _keep_option(_only_option(command))


def export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options ``--format`` and ``--dynamic``, as one value ``exports``."""
    return _format_option(_dynamic_option(_together("exports", _exports, ("formats", "dynamic"))(command)))


def _exports(**given: Any) -> Exports:
    from fxprune.emission.formats import Exports

    return Exports(**given)


def write_page(file: Path, text: str) -> None:
    """Write an HTML page and say so; raises LoadError if that is not possible."""
    from fxprune.files import write_text

    if file.is_dir():
        raise LoadError(f"cannot write {file}: it is a folder; name a file in it")
    write_text(file, text)
    click.echo(f"written to {file}")


@progress_line("loading the model")
def load_traced(model: str, given: Given) -> fx.GraphModule:
    """Return the graph of the model that the user names, on random inputs of the given shape."""
    import torch
    from torch import fx

    from fxprune.ir.nodes import EXAMPLE_INPUTS

    torch.manual_seed(0)
    loaded, shape = given.load(model), given.input_shape
    if isinstance(loaded.model, fx.GraphModule) and EXAMPLE_INPUTS in loaded.model.meta and shape is None:
        return loaded.model
    return trace_loaded(loaded, shape)


def trace_loaded(
    loaded: LoadedModel, input_shape: str | None, usual: tuple[int, ...] = (1, 3, 224, 224)
) -> fx.GraphModule:
    """Trace ``loaded`` on random inputs, of the shape ``usual`` if neither the user nor the model says another."""
    import torch

    from fxprune.tracing.trace import trace

    shape = loaded.input_shape or usual if input_shape is None else _parse_shape(input_shape)
    return trace(loaded.model, torch.randn(shape))


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"{text!r} is no shape; write for example 1,3,224,224", param_hint="--input")
    return shape
