"""What a training run did over time, as one inline SVG. Needs matplotlib, the extra ``plot``."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fxprune.errors import FxpruneError
from fxprune.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEXT = "#010203"  # stands for the page's own text colour, light or dark
_KEPT, _GONE = "#0072b2", "#d55e00"  # of Okabe and Ito's palette; the lines differ in dashes too
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fxprune",  # the same run gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TEXT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": _TEXT,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
}


def run_plots(run: RunRecord) -> str:
    """Return scales, layers and MACs left, and top-1 over the optimizer steps as SVG; "" if nothing was measured.

    Raises FxpruneError if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FxpruneError("plots need matplotlib; pip install 'fxprune[plot]'") from error
    panels = [draw for measured, draw in _panels(run) if measured]
    if not panels:
        return ""
    heights = [2.2 if draw is _scales else 1.0 for draw in panels]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 1.75 * sum(heights) + 0.4), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for draw, one in zip(panels, axes, strict=True):
            draw(one, run)
        axes[-1].set_xlabel("optimizer step")
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    return svg[svg.index("<svg") :].replace(_TEXT, "currentColor")


def _panels(run: RunRecord) -> list[tuple[bool, Callable[[Axes, RunRecord], None]]]:
    def measured(name: str) -> bool:
        return bool(run.series(name)[0])

    return [
        (bool(run.scales()[0]), _scales),
        (measured("layers_left"), _layers),
        (measured("macs_left"), _macs),
        (measured("top1"), _top1),
    ]


def _scales(axes: Axes, run: RunRecord) -> None:
    steps, scales = run.scales()
    labelled: set[bool] = set()
    for values in scales.values():
        gone = values[-1] == 0
        label = None if gone in labelled else ("reached zero" if gone else "stays")
        labelled.add(gone)
        look: dict[str, Any] = {"color": _GONE, "linestyle": "--"} if gone else {"color": _KEPT, "linestyle": "-"}
        axes.plot(steps, values, linewidth=0.9, alpha=0.75, label=label, **look)
    axes.set_title("effective scale of each layer")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(loc="upper right", ncols=2)


def _layers(axes: Axes, run: RunRecord) -> None:
    axes.step(*run.series("layers_left"), where="post", color=_KEPT, linewidth=1.4)
    axes.set_title("layers left")
    axes.set_ylim(bottom=0)


def _macs(axes: Axes, run: RunRecord) -> None:
    axes.step(*run.series("macs_left"), where="post", color=_KEPT, linewidth=1.4)
    axes.set_title("MACs left")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(_percent)


def _top1(axes: Axes, run: RunRecord) -> None:
    axes.plot(
        *run.series("top1"), color=_KEPT, linewidth=1.4, marker="o", markersize=2.5, label="while layers shrink"
    )
    steps, values = run.finetuning_series("top1")
    if steps:
        axes.plot(
            steps, values, color=_GONE, linewidth=1.4, linestyle="--", marker="s", markersize=2.5, label="fine-tuning"
        )
        axes.axvline(run.rows[-1]["step"], color=_TEXT, linewidth=0.8, linestyle=":")
        axes.legend(loc="lower right", ncols=2)
    axes.set_title("held-out top-1")
    axes.yaxis.set_major_formatter(_percent)


def _percent(value: float, _: float) -> str:
    return f"{value:.0%}" if abs(value * 100 - round(value * 100)) < 1e-6 else f"{value:.1%}"
