"""Diffs in the terminal: coloured where there is one that has colours, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from fxprune.diffing.text import Line

_STYLES = {
    "removed": "red",
    "added": "green",
    "changed": "yellow",
    "fused": "cyan",
    "unchanged": "dim",
    "module": "bold",
    "why": "dim",
    "note": "",
}


def show(lines: Sequence[Line], console: Console | None = None) -> None:
    """Print ``lines``, to standard output unless another console is given; NO_COLOR and the like are respected."""
    console = console or Console(highlight=False)
    for line in lines:
        console.print(Text(line.text, style=_STYLES[line.style]), soft_wrap=True)
