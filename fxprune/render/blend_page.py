"""A search for a blend of criteria as one HTML file: plots and the clusters of each group; no script, no network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fxprune.choosing.blend_record import SearchRecord
from fxprune.choosing.criterion_blend import Blend
from fxprune.choosing.criterion_clusters import Matrix, mean_correlation
from fxprune.render.plain_page import plain_page, table
from fxprune.render.plots import COLORS, percent, plotting, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TOP1, _ALIKE = "held-out top-1 by generation", "rank correlation, mean over groups"

_DARK = 0.6  # correlations beyond are dark cells


def blend_page(record: SearchRecord, blend: Blend, *, title: str) -> str:
    """Return the page of a search, finished or not.

    Args:
        record: the search; :meth:`SearchRecord.load` reads it.
        blend: the best one so far.
        title: the name of the model.

    Raises:
        FxpruneError: matplotlib is not installed.
    """
    found = "" if blend.top1 is None else f"; the best blend has a held-out top-1 of {blend.top1:.1%}"
    body = [
        f"<p>{len(record.generations)} generations{found}</p>",
        f'<div class="plots">{"".join(blend_plots(record).values())}</div>',
        "<h2>Clusters of criteria, and what counts</h2>",
        table(("group", "clusters", "factors"), _groups(record, blend)),
    ]
    return plain_page(f"{title}: blend of criteria", body)


def blend_plots(record: SearchRecord) -> dict[str, str]:
    """Return as SVGs, by title, fitness by generation and how alike criteria rank; those of which there is anything.

    Raises FxpruneError if matplotlib is not installed.
    """
    names, correlation = mean_correlation(record.clusters)
    with plotting():
        plots = {_TOP1: svg_of(_TOP1, partial(_fitness, record))} if record.generations else {}
        if len(names) > 1:
            plots[_ALIKE] = svg_of(_ALIKE, partial(_heat_map, names, correlation), 1.4)
    return plots


def _fitness(record: SearchRecord, axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = range(1, len(record.generations) + 1)
    tops = [one.top1 for one in record.generations]
    axes.plot(
        numbers, list(map(max, tops)), color=COLORS[0], marker="o", markersize=3, label="best of the generation"
    )
    axes.plot(numbers, list(map(np.mean, tops)), color=COLORS[1], linestyle="--", label="mean")
    axes.set_xlabel("generation")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter(percent)


def _heat_map(names: list[str], correlation: Matrix, axes: Axes) -> None:
    axes.pcolormesh(correlation, vmin=-1, vmax=1, cmap="PuOr")  # no picture: pages let none in
    for row, column in zip(*np.nonzero(np.isfinite(correlation)), strict=True):
        rho = correlation[row, column]
        color = "white" if abs(rho) > _DARK else "black"
        axes.text(column + 0.5, row + 0.5, f"{rho:.1f}", color=color, ha="center", va="center", fontsize=8)
    places = np.arange(len(names)) + 0.5
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)


def _groups(record: SearchRecord, blend: Blend) -> Iterator[tuple[str, str, str]]:
    for path, one in record.clusters.items():
        factors = blend.factors.get(path, {})
        counts = ", ".join(f"{name} {factor:.2f}" for name, factor in factors.items() if factor)
        yield path, " | ".join(", ".join(members) for members in one.members), counts
