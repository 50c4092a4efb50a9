"""Networks on the way down, as one HTML file: top-1 over milliseconds, each point a link to what was changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fxprune.render.html import escaped
from fxprune.render.plain_page import Cell, Link, plain_page, table
from fxprune.render.plots import COLORS, percent, plotting, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("target", "ms", "spread", "predicted ms", "held-out top-1", "outputs moved", "MACs", "parameters", "")
_CHANGES = "diff.html"


def frontier_page(told: Mapping[str, Any], *, title: str) -> str:
    """Return the page.

    Args:
        told: what frontier.json holds.
        title: what was pruned.

    Raises:
        FxpruneError: matplotlib is not installed.
    """
    body = [
        f"<p>{escaped(told['conditions'])}</p>",
        f'<div class="plots">{frontier_plot(told)}</div>',
        table(_COLUMNS, _rows(told), sortable=True),
    ]
    return plain_page(f"{title}: frontier", body)


def _rows(told: Mapping[str, Any]) -> Iterator[Sequence[Cell]]:
    for one in told["points"]:
        yield [
            "unpruned" if one["target"] is None else (f"{one['target']:.0%}", one["target"]),
            *(_number(one[name], ".4g") for name in ("ms",)),
            _number(one["spread"], ".1%"),
            _number(one["predicted_ms"], ".4g"),
            _number(one["top1"], ".2%"),
            _number(one["moved"], ".2%"),
            *(_number(one[name], ",") for name in ("macs", "params")),
            "" if one["folder"] is None else Link("what was changed", f"{one['folder']}/{_CHANGES}"),
        ]


def _number(value: float | None, form: str) -> Cell:
    return "" if value is None else (format(value, form), value)


def frontier_plot(told: Mapping[str, Any]) -> str:
    """Return top-1 over milliseconds as an SVG whose points are links.

    Raises FxpruneError if matplotlib is not installed.
    """
    with plotting():
        return svg_of("held-out top-1, by ms", partial(_plot, told["points"]), 1.3)


def _plot(points: Sequence[Mapping[str, Any]], axes: Axes) -> None:
    known = sorted(points, key=lambda one: one["ms"])
    times, top1 = [one["ms"] for one in known], [one["top1"] for one in known]
    axes.plot(times, top1, color=COLORS[0], linewidth=1.2)
    drawn = axes.scatter(times, top1, color=COLORS[0], s=36, zorder=3)
    drawn.set_urls([f"{quote(one['folder'])}/{_CHANGES}" if one["folder"] else None for one in known])
    for one in known:
        name = "unpruned" if one["target"] is None else f"{one['target']:.0%}"
        axes.annotate(name, (one["ms"], one["top1"]), textcoords="offset points", xytext=(6, -12), fontsize=9)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(percent)
