"""The plot of trainings, epoch after epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.pages import Draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def drawn(paths: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Draw:
    """Return what draws top-1 against epochs, a line a path."""

    def draw(axes: Axes) -> None:
        for label, path in paths.items():
            axes.plot([p["epoch"] for p in path], [100 * p["top1"] for p in path], label=label)
        axes.set(xlabel="epoch", ylabel="held-out top-1, %", title=title)
        axes.legend()

    return draw
