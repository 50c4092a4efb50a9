"""Names that a model of anybody's may have, and that must do no harm wherever they are shown."""

from __future__ import annotations

import fxprune
from fxprune.diffing.entries import Change, NodeInfo, Reason, Totals

HOSTILE = [
    'a"b',
    "back\\slash\\",
    "<script>alert('x')</script>&amp;",
    "größe_层",
    "\x1b[31mred\x1b[0m",
    "two\nlines\r\x00",
    "[red]markup[/red] %s {0}",
    '"; evil [label="',
    "\u202eright to left",
    "\ud800",
]


def hostile(name: str) -> fxprune.GraphDiff:
    """Return a diff in which everything that a model can name has this name."""
    first = NodeInfo(name, name, name, (), (1, 2), 3, 4, 0.5, name)
    second = NodeInfo(name + "2", name, name, (name,), None, 3, 4, None, name)
    why = (Reason(name, name, 0),)
    return fxprune.GraphDiff(
        (
            Change("changed", (first,), first, ("kernel",), why),
            Change("removed", (second,), None, (), why),
            Change("added", (), second, (), why),
        ),
        Totals(2, 6, 8),
        Totals(2, 6, 8),
        "guess",
    )
