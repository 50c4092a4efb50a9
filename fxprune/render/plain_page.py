"""Texts, tables and plots as one HTML file: no server, no network; a script only where a table can be sorted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from fxprune.render.html import escaped, hash_of, static


class Link(NamedTuple):
    """A text that leads to a file beside the page."""

    text: str
    href: str


Cell = str | tuple[str, float] | Link
"""A text; one with what it is sorted by, where that is another number than it shows; or a link."""


def plain_page(title: str, body: Sequence[str]) -> str:
    """Return the page; ``body`` is HTML, the title a text."""
    style = static("theme.css") + static("run.css")
    content = "\n".join(body)
    script = static("sort.js") if _SORTABLE in content else ""
    return Template(static("run.html")).substitute(
        title=escaped(title),
        policy=f"default-src 'none'; style-src 'unsafe-inline'{f'; script-src {hash_of(script)}' if script else ''}",
        style=style,
        body=content,
        script=f"<script>{script}</script>\n" if script else "",
    )


_SORTABLE = '<table class="sortable">'


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False) -> str:
    """Return a table of texts as HTML; a click on the head of a ``sortable`` one sorts it by that column."""
    titles = [escaped(text) for text in headers]
    head = "".join(f'<th scope="col">{f"<button>{text}</button>" if sortable else text}</th>' for text in titles)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    start = _SORTABLE if sortable else "<table>"
    return f'<div class="scroll">{start}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escaped(cell)}</td>"
    if isinstance(cell, Link):
        return f'<td><a href="{escaped(quote(cell.href))}">{escaped(cell.text)}</a></td>'
    text, value = cell
    return f'<td data-value="{float(value)!r}">{escaped(text)}</td>'
