"""Colour where the terminal has it, and plain text elsewhere; names never reach the terminal as commands."""

from __future__ import annotations

import io
from typing import Any

import pytest
from helpers import tiny
from hostile_names import HOSTILE, hostile
from rich.console import Console

from fxprune import passes
from fxprune.diffing.diff import diff
from fxprune.diffing.text import unified
from fxprune.render.terminal import show


def printed(found: Any, **options: Any) -> str:
    file = io.StringIO()
    show(unified(found), Console(file=file, highlight=False, width=60, **options))
    return file.getvalue()


def test_plain_where_there_is_no_terminal() -> None:
    result = passes.FoldBatchNorm()(tiny())
    found = diff(tiny(), result.graph_module, results=[result])
    assert printed(found) == f"{found}\n"  # not wrapped either


def test_colours_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = hostile("name")
    text = printed(found, force_terminal=True, color_system="standard")
    assert "\x1b[31m- name " in text
    assert "\x1b[32m+ name " in text
    assert "\x1b[33m~ name " in text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_no_harm(name: str) -> None:
    assert "\x1b" not in printed(hostile(name))
    assert printed(hostile(name)) == f"{hostile(name)}\n"  # "[red]" is no markup
