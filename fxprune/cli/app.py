"""The program: its commands, its errors and its exit codes."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

import fxprune
from fxprune.cli.compare import diff_command
from fxprune.cli.demo import demo
from fxprune.cli.graphs import inspect, list_passes, run
from fxprune.cli.latency import latency
from fxprune.cli.plans import apply, plan
from fxprune.cli.predict import predict
from fxprune.cli.pruning import prune
from fxprune.cli.report import report
from fxprune.cli.sensitivity import sensitivity
from fxprune.errors import FxpruneError, FxpruneWarning

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=_CONTEXT, invoke_without_command=True)
@click.option("--debug", is_flag=True, help="Show tracebacks, and check every graph that a pass makes.")
@click.version_option(fxprune.__version__)
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Prune layers and channels of CNNs on the torch.fx graph; the result is plain PyTorch."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_COMMANDS = (
    *(demo, inspect, sensitivity, latency, prune, run, plan, apply),
    *(diff_command, report, predict, list_passes),
)
for command in _COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the shell and exit; errors are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug"] * debug + [a for a in given if a != "--debug"]  # allowed anywhere
    if not debug:  # torch logs the traceback of what fails on fake tensors, though the error is caught
        logging.getLogger("torch._subclasses.fake_tensor").addFilter(_drop)  # a level would go when torch is imported
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", FxpruneWarning)
    try:
        with _checking_invariants() if debug else nullcontext():
            status = cli(given, standalone_mode=False, prog_name="fxprune")
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command goes on from its last checkpoint, if it has written one", 130)
    except click.ClickException as error:
        _fail(error.format_message().replace("\n", " "), 2)
    except Exception as error:
        if debug:
            raise
        _fail(_one_line(error), getattr(error, "exit_code", 1))
    if status:
        sys.exit(status)


def _fail(message: str, code: int) -> None:
    click.echo(f"fxprune: error: {message}", err=True)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    """Return what to say of ``error``: the last line where a worker process wrapped it in its own traceback."""
    lines = str(error).strip().splitlines() or [""]
    in_worker = lines[0].startswith("Caught ")
    if isinstance(error, FxpruneError):
        text = lines[-1] if in_worker else " ".join(lines)
        return text.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
    if isinstance(error, OSError) and error.filename is not None and not in_worker:
        return f"cannot read or write {error.filename}: {error.strerror}"
    text = lines[-1] if in_worker else f"{type(error).__name__}: {lines[0]}"
    return f"{text} (use --debug for the traceback)"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, FxpruneWarning):
        click.echo(f"fxprune: warning: {message}", err=True)


def _checking_invariants() -> AbstractContextManager[None]:
    from fxprune.rewriting.invariants import checking_invariants  # it takes torch, which help does not

    return checking_invariants()


def _drop(_: logging.LogRecord) -> bool:
    return False
