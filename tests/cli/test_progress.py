"""The line that tells what takes long: on a terminal, and gone in the end; nothing elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr

import pytest
from cli_helpers import NET, run

from fxprune.cli.progress import progress_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def test_inspect_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stderr(Terminal()) as terminal:
        code, out, _ = run(capsys, "inspect", NET, "--input", "2,3,16,16")
    assert code == 0
    assert "of 19 convs are eligible" in out
    shown = terminal.getvalue()
    steps = ["loading the model", "tracing CifarResNet", "running CifarResNet on the example inputs"]
    assert [shown.index(step) for step in steps] == sorted(shown.index(step) for step in steps)
    assert shown.rstrip("\x1b[?25h").endswith("\x1b[2K")  # the line is erased


def test_where_stderr_is_no_terminal_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "inspect", NET, "--input", "2,3,16,16")
    assert (code, err) == (0, "")


def test_the_line_leaves_logging_as_it_was() -> None:
    logger = logging.getLogger("fxprune")
    before = logger.level, list(logger.handlers)

    @progress_line("first [b]\nline")
    def failing() -> None:
        logging.getLogger("fxprune.tracing").info("second")
        raise KeyError

    with redirect_stderr(Terminal()) as terminal, pytest.raises(KeyError):
        failing()
    assert (logger.level, logger.handlers) == before
    assert "second" in terminal.getvalue()
    logging.getLogger("fxprune.tracing").info("third")
    assert "third" not in terminal.getvalue()


def test_warnings_stand_above_the_line() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_line("at work"):
        print("a warning", file=sys.stderr)
    assert "a warning" in terminal.getvalue()


def test_a_share_is_shown_as_a_bar() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_line("at work"):
        for share in (0.0, 0.5, 1.0):
            logging.getLogger("fxprune.pruning").info("judged", extra={"share": share})
    assert all(f"{bar}  judged" in terminal.getvalue() for bar in ("╌" * 10, "━" * 5 + "╌" * 5, "━" * 10))
