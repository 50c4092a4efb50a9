"""The shell: ``fxprune demo | inspect | prune | run | passes``.

Exit codes: 0 success, 1 something was wrong with the model, the data or a file (one line on stderr), 2 wrong usage,
130 interrupted. A traceback appears only with ``--debug``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate
from torch import fx

import fxprune
from fxprune.errors import FxpruneError, FxpruneWarning, LoadError
from fxprune.graph import EXAMPLE_INPUTS
from fxprune.inspection import inspect_graph
from fxprune.models import FORMS, LoadedModel, load_model
from fxprune.pipeline import Pipeline
from fxprune.registry import known_passes, options_of, parse_passes
from fxprune.trace import trace

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=_CONTEXT)
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(fxprune.__version__)
def cli(debug: bool) -> None:
    """Prune whole layers of CNNs on the torch.fx graph; the result is plain PyTorch."""


_weights = click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict to load: .safetensors, .pt, .pth."
)
_classes = click.option("--classes", type=click.IntRange(min=1), help="Outputs of a torchvision or timm model.")
_input = click.option("--input", "input_shape", metavar="N,C,H,W", help="Shape of the example input.")
_model_help = f"MODEL: {FORMS}."


@cli.command()
@click.option("--seed", default=0, help="Of the initial weights and the training.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fxprune-demo"), help="Folder to write.")
def demo(seed: int, out: Path) -> None:
    """Train ResNet-20 on handwritten digits, prune half of it away, write the result (under 3 minutes)."""
    from fxprune.training.demo import run_demo

    _show_report(run_demo(out, seed, _say), out)


@cli.command(epilog=_model_help)
@click.argument("model")
@_weights
@_classes
@_input
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, weights: Path | None, classes: int | None, input_shape: str | None, as_json: bool) -> None:
    """List each conv and each residual branch of MODEL: eligible or why not, its MACs and parameters."""
    graph_module = _traced(model, weights, classes, input_shape)
    found = inspect_graph(graph_module)
    click.echo(json.dumps({"model": model, **found.to_json()}, indent=2) if as_json else str(found))


@cli.command(epilog=_model_help)
@click.argument("model")
@_weights
@_classes
@click.option("--data", required=True, help="digits, cifar10:DIR or imagefolder:DIR.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; resumes what is there.")
@click.option(
    "--target-macs",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of MACs to leave; 0.5 unless a strength is given.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, min_open=True),
    help="Shrink by an L1 of this fixed strength, instead of steering to the target.",
)
@click.option(
    "--layers",
    type=click.Choice(["all", "convs", "branches"]),
    default="all",
    help="What to prune: convs, branches, or all.",
)
@click.option("--epochs", default=10, type=click.IntRange(min=1), help="Epochs of training.")
@click.option("--finetune-epochs", default=0, type=click.IntRange(min=0), help="Epochs after the removal, at lr/10.")
@click.option("--lr", default=0.05, type=click.FloatRange(0, min_open=True), help="Peak learning rate.")
@click.option("--batch-size", default=128, type=click.IntRange(min=1), help="Images a step, over all processes.")
@click.option(
    "--accumulate", default=1, type=click.IntRange(min=1), help="Parts a step is computed in, to save memory."
)
@click.option("--weight-decay", default=5e-4, type=click.FloatRange(0), help="Of the weights.")
@click.option("--label-smoothing", default=0.0, type=click.FloatRange(0, 1, max_open=True), help="Of the loss.")
@click.option(
    "--shrink-share",
    default=0.25,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the training after which the target is met.",
)
@click.option(
    "--distill", default=0.0, type=click.FloatRange(0, 1), help="Share of the loss that learns the unpruned outputs."
)
@click.option("--temperature", default=4.0, type=click.FloatRange(0, min_open=True), help="Of distillation.")
@click.option(
    "--teacher-weights", type=click.Path(path_type=Path), help="Teach with MODEL with these weights instead."
)
@click.option(
    "--recalibrate",
    default=0,
    type=click.IntRange(min=0),
    help="Batches that batch norms are measured on at the end.",
)
@click.option("--precision", default="float32", type=click.Choice(["float32", "bf16"]), help="Of training.")
@click.option("--compile/--no-compile", default=False, help="Train with torch.compile.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side in pixels; 224 for a folder, 32 for CIFAR-10.")
@click.option(
    "--on-bad-image", default="fail", type=click.Choice(["fail", "skip"]), help="What to do if one cannot be read."
)
@click.option("--seed", default=0, help="Of the data order, the augmentation and the model's initial weights.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images; one a core by default.")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
@click.option(
    "--checkpoint-minutes", default=10.0, type=click.FloatRange(0), help="How often to save within an epoch."
)
def prune(model: str, weights: Path | None, classes: int | None, data: str, out: Path, **options: Any) -> None:
    """Fine-tune MODEL on your images, prune its layers meanwhile, write the result to a folder.

    Killed at any moment, the same command goes on from its last checkpoint. On several GPUs or hosts:
    torchrun --nproc-per-node 4 -m fxprune prune MODEL ...
    """
    from fxprune.training.data import default_workers, load_data
    from fxprune.training.engine import make_accelerator
    from fxprune.training.job import open_folder, prune_on_data
    from fxprune.training.settings import Settings

    image_size, target_macs, layers, strength, teacher_weights, on_bad_image = (
        options.pop(key)
        for key in ("image_size", "target_macs", "layers", "strength", "teacher_weights", "on_bad_image")
    )
    if target_macs is None and strength is None:
        target_macs = 0.5
    given = click.get_current_context().get_parameter_source
    for option, needed, is_there in (
        ("teacher_weights", "--distill", options["distill"] > 0),
        ("temperature", "--distill", options["distill"] > 0),
        ("shrink_share", "no --strength", strength is None),
    ):
        if given(option) is click.core.ParameterSource.COMMANDLINE and not is_there:
            raise click.UsageError(f"--{option.replace('_', '-')} needs {needed}")
    if options["workers"] is None:
        options["workers"] = 0 if data == "digits" else default_workers()
    settings = Settings(**options)
    torch.manual_seed(settings.seed)
    loaded = load_model(model, weights, classes)
    teacher = None if teacher_weights is None else load_model(model, teacher_weights, classes).model
    images = load_data(data, image_size, on_bad_image=on_bad_image)
    run = {
        "model": model,
        "weights": weights and str(weights),
        "teacher_weights": teacher_weights and str(teacher_weights),
        "data": data,
        "image_size": image_size,
    }
    target = {"target_macs": target_macs, "strength": strength, "layers": layers}
    accelerator = make_accelerator(settings, out)
    if accelerator.is_main_process:
        open_folder(out, {**run, **target, **settings.shared()})
    accelerator.wait_for_everyone()
    say = _say if accelerator.is_main_process else _say_nothing
    report = prune_on_data(
        loaded.model, images, out, settings, **target, teacher=teacher, say=say, extra=run, accelerator=accelerator
    )
    if accelerator.is_main_process:
        _show_report(report, out)


@cli.command(epilog=_model_help)
@click.argument("model")
@click.option("--passes", "spec", required=True, help='For example "fold-batch-norm,simplify".')
@_weights
@_classes
@_input
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write the result to.")
@click.option("--format", "formats", multiple=True, type=click.Choice(["pt2", "onnx"]), help="Write this too.")
@click.option("--no-verify", is_flag=True, help="Do not hold the passes to their contracts.")
def run(
    model: str,
    spec: str,
    weights: Path | None,
    classes: int | None,
    input_shape: str | None,
    out: Path | None,
    formats: Sequence[Any],
    no_verify: bool,
) -> None:
    """Apply any chain of passes to MODEL in eval mode, and show what each did."""
    passes = parse_passes(spec)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    graph_module = _traced(model, weights, classes, input_shape).eval()
    result = Pipeline(passes, verify=not no_verify)(graph_module)
    click.echo(str(result))
    if out is not None:
        fxprune.emit(result.graph_module, out, formats=formats)
        click.echo(f"written to {out}")


@cli.command("passes")
def list_passes() -> None:
    """List the passes with their contracts and options."""
    rows = []
    for name, kind in known_passes().items():
        options = ", ".join(f"{key}={field.default}" for key, field in options_of(kind).items())
        contract = kind.contract.name.lower() if isinstance(kind.contract, fxprune.Contract) else "by options"
        rows.append([name, options, contract, (kind.__doc__ or "").strip().splitlines()[0]])
    click.echo(tabulate(rows, headers=["pass", "options", "keeps equal", "what it does"]))


def _traced(model: str, weights: Path | None, classes: int | None, input_shape: str | None) -> fx.GraphModule:
    torch.manual_seed(0)
    loaded = load_model(model, weights, classes)
    if isinstance(loaded.model, fx.GraphModule) and EXAMPLE_INPUTS in loaded.model.meta and input_shape is None:
        return loaded.model
    return trace(loaded.model, torch.randn(_input_shape(loaded, input_shape)))


def _input_shape(loaded: LoadedModel, text: str | None) -> tuple[int, ...]:
    if text is None:
        return loaded.input_shape or (1, 3, 224, 224)
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"{text!r} is no shape; write for example 1,3,224,224", param_hint="--input")
    return shape


def _say(message: str) -> None:
    click.echo(message)
    sys.stdout.flush()


def _say_nothing(_: str) -> None:
    """What the other processes of a distributed run say."""


def _show_report(report: dict[str, Any], out: Path) -> None:
    latency = report["latency_ms"]
    rows = [
        ["MACs", f"{report['macs_before']:,}", f"{report['macs_after']:,}"],
        ["parameters", f"{report['params_before']:,}", f"{report['params_after']:,}"],
        ["held-out top-1", f"{report['accuracy_before']:.2%}", f"{report['accuracy_after']:.2%}"],
        *([f"ms at batch {n}", f"{t['before']:.2f}", f"{t['after']:.2f}"] for n, t in latency.items()),
    ]
    click.echo(tabulate(rows, headers=["", "before", "after"], colalign=("left", "right", "right")))
    removed, saved = len(report["layers_removed"]), 1 - report["macs_after"] / report["macs_before"]
    click.echo(f"{removed} of {report['layers_removable']} removable layers are gone, with {saved:.1%} of the MACs")
    click.echo(f"verified: largest relative difference {report['max_relative_difference']:.2g} (float64)")
    click.echo(f"the pruned model, report.json and diff.txt are in {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the shell and exit; errors are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug"] * debug + [a for a in given if a != "--debug"]  # allowed anywhere
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", FxpruneWarning)
    try:
        cli(given, standalone_mode=False, prog_name="fxprune")
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted; `fxprune prune` goes on from its last checkpoint", 130)
    except click.ClickException as error:
        _fail(error.format_message().replace("\n", " "), 2)
    except Exception as error:
        if debug:
            raise
        _fail(_one_line(error), 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"fxprune: error: {message}", err=True)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    """Return what to say of ``error``: the last line where a worker process wrapped it in its own traceback."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, FxpruneError):
        text = lines[-1] if lines[0].startswith("Caught ") else " ".join(lines)
        return text.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
    return f"{type(error).__name__}: {lines[0]} (use --debug for the traceback)"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, FxpruneWarning):
        click.echo(f"fxprune: warning: {message}", err=True)


if __name__ == "__main__":
    main()
