"""What a command that takes long is doing: one line on a terminal, nothing where stderr is none.

The compiler tells it by logging, as any library does: to the loggers below ``fxprune``, at level INFO. What a record
has as ``share``, between 0 and 1, is shown as a bar.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.live import Live

_BAR = 10  # characters


def saying(aside: bool) -> Callable[[str], None]:
    """Return what says a line at once: on stderr if ``aside``, where stdout is for a result alone."""

    def say(line: str) -> None:
        click.echo(line, err=aside)
        sys.stdout.flush()

    return say


@contextmanager
def progress_line(first: str) -> Iterator[None]:
    """Show ``first``, then what is logged, on a line of stderr that goes at the end; it decorates functions too."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    logger = logging.getLogger("fxprune")
    level = logger.level
    # without its thread: tracing replaces functions process-wide, and lines are logged where it does not
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        handler = _Line(live)
        handler.show(first)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def _bar(share: float) -> str:
    done = round(_BAR * share)
    return "━" * done + "╌" * (_BAR - done)


class _Line(logging.Handler):
    def __init__(self, live: Live) -> None:
        super().__init__(logging.INFO)
        self.live, self.start = live, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        share = getattr(record, "share", None)
        self.show(record.getMessage() if share is None else f"{_bar(share)}  {record.getMessage()}")

    def show(self, message: str) -> None:
        """Show ``message``, with the seconds so far, in the place of the one before."""
        from rich.text import Text

        seconds = f"{time.monotonic() - self.start:4.0f} s  "
        self.live.update(Text(seconds + message, no_wrap=True, overflow="ellipsis", style="dim"), refresh=True)
