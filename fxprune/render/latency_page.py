"""Where a network's time goes, as one HTML file: plots, and tables that can be sorted; no network.

What is shown is plain data, as ``fxprune latency --json`` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fxprune.render.html import escaped
from fxprune.render.plain_page import Cell, plain_page, table
from fxprune.render.plots import COLORS, plotting, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Told = Mapping[str, Any]
_OPS = ("where", "what", "ms", "share", "MACs", "parameters", "GMAC/s")
_SITES = ("where", "what", "goes", "saves ms", "share", "MACs", "parameters")
_STAIRS = 4
"""So many of the ops that take longest are drawn over their widths."""


def latency_page(told: Told, *, title: str) -> str:
    """Return the page.

    Args:
        told: what :meth:`fxprune.pruning.latency_inspection.LatencyInspection.to_json` returns.
        title: the name of the model.

    Raises:
        FxpruneError: matplotlib is not installed.
    """
    body = [f"<p>{escaped(note)}</p>" for note in told["notes"]]
    body.append(f'<div class="plots">{"".join(latency_plots(told).values())}</div>')
    body += ["<h2>Op by op</h2>", table(_OPS, _of_ops(told), sortable=True)]
    if told["sites"]:
        body += ["<h2>What each removal could save</h2>", table(_SITES, _of_sites(told), sortable=True)]
    return plain_page(f"{title}: latency", body)


def _of_ops(told: Told) -> Iterator[Sequence[Cell]]:
    whole = sum(one["ms"] for one in told["ops"]) or 1.0
    for one in told["ops"]:
        speed = told["batch"] * one["macs"] / one["ms"] / 1e6 if one["ms"] else 0.0
        yield [
            one["path"],
            one["what"],
            (f"{one['ms']:.4g}", one["ms"]),
            (f"{one['ms'] / whole:.1%}", one["ms"]),
            *_counts(one),
            (f"{speed:.3g}", speed) if one["macs"] else "",
        ]


def _of_sites(told: Told) -> Iterator[Sequence[Cell]]:
    for one in told["sites"]:
        goes = f"{one['goes']} of {one['width']}" if one["kind"] == "channels" else "all"
        saved = one["ms"]
        share = saved / (told["predicted_ms"] or 1.0)
        yield [one["path"], one["kind"], goes, (f"{saved:.4g}", saved), (f"{share:.1%}", saved), *_counts(one)]


def _counts(one: Told) -> list[Cell]:
    return [(f"{one[name]:,}", one[name]) for name in ("macs", "params")]


def latency_plots(told: Told) -> dict[str, str]:
    """Return plots as SVGs: "ops", each op's time by its MACs, and "stairs", that of the longest over their widths.

    Raises FxpruneError if matplotlib is not installed.
    """
    with plotting():
        found = {"ops": svg_of("ms of each op, by its MACs", partial(_ops, told), 1.3)}
        if told["stairs"]:
            found["stairs"] = svg_of("ms over the width, in output channels", partial(_stairs, told), 1.3)
        return found


def _ops(told: Told, axes: Axes) -> None:
    kinds: dict[str, list[Told]] = {"with MACs": [], "without": []}
    for one in told["ops"]:
        kinds["with MACs" if one["macs"] else "without"].append(one)
    for color, marker, (label, ops) in zip(COLORS, "os", kinds.items(), strict=False):
        if ops:
            look: dict[str, Any] = {"marker": marker, "markersize": 4, "alpha": 0.75, "linestyle": ""}
            axes.plot([one["macs"] for one in ops], [one["ms"] for one in ops], color=color, label=label, **look)
    axes.set_xscale("symlog", linthresh=1e5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("MACs")


def _stairs(told: Told, axes: Axes) -> None:
    looks = zip((*COLORS, *COLORS), ("-", "--", ":", "-."), strict=False)
    for (color, dashes), one in zip(looks, told["stairs"][:_STAIRS], strict=False):
        axes.plot(one["widths"], one["ms"], color=color, linestyle=dashes, label=one["path"])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
