"""How a network will run, for commands that time it: backend, batch, threads.

What takes torch is imported where it is used: help and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import click

from fxprune.cli.options import collected

BACKENDS = ("eager", "compile", "onnxruntime")
"""The values of :data:`fxprune.costs.latency.conditions.Backend`, told without torch."""


@dataclass(frozen=True)
class Timed:
    """How a network will run; what is None is what usually runs it."""

    backend: str | None
    batch: int | None
    threads: int | None

    @property
    def given(self) -> dict[str, Any]:
        """What was given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def conditions(self) -> dict[str, Any]:
        """The options of :meth:`fxprune.LatencyModel.measure`: a batch is one image by default."""
        return {"batch": 1, **self.given}


_OPTIONS: Sequence[Callable[..., Any]] = (
    click.option("--backend", type=click.Choice(BACKENDS), help="What will run the network: eager by default."),
    click.option("--batch", type=click.IntRange(min=1), help="Images at a time; 1 by default."),
    click.option("--threads", type=click.IntRange(min=1), help="Of the CPU; torch's own number by default."),
)


def timed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of :class:`Timed`, as one value ``timed``."""
    command = collected("timed", Timed)(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
