"""What a training run did over time, as inline SVGs, a plot each. Needs matplotlib, the extra ``plot``.

A plot is as wide as a phone, so that its text can be read there; a page sets several side by side where it has room.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fxprune.errors import FxpruneError
from fxprune.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEXT = "#010203"  # stands for the page's own text colour, light or dark
COLORS = _KEPT, _ZERO, _WITH = (
    "#0072b2",
    "#d55e00",
    "#cc79a7",
)  # of Okabe and Ito's palette; the lines differ in dashes too
_LOOKS: dict[str, dict[str, Any]] = {
    "stays": {"color": _KEPT, "linestyle": "-"},
    "reached zero": {"color": _ZERO, "linestyle": "--"},
    "gone": {"color": _WITH, "linestyle": ":"},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fxprune",  # the same run gives the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TEXT,
    "axes.titlesize": 12,
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
_WIDTH, _HEIGHT = 4.4, 2.6  # inches, of 72 units: 317 units are about the pixels of a phone


def run_plots(run: RunRecord) -> str:
    """Return scales, layers and MACs left, loss and top-1 over the training as SVGs; "" if nothing was measured.

    Raises FxpruneError if matplotlib is not installed.
    """
    panels = {
        "effective scale of each layer": (run.scales()[0], _scales),
        "layers left": (run.series("layers_left")[0], _layers),
        "channels left": (run.series("channels_left")[0], _channels),
        "channels left of each group": (run.widths()[0] if run.widths()[1] else [], _widths),
        "MACs left": (run.series("macs_left")[0], _macs),
        "MACs saved by": (run.saved_by()[0] if len(run.saved_by()[1]) > 1 else [], _saved_by),
        "training loss, mean of each epoch": (run.series("loss", epochs=True)[0], _loss),
        "held-out top-1": (run.series("top1")[0], _top1),
    }
    with plotting():
        return "\n".join(_plot(run, title, draw) for title, (measured, draw) in panels.items() if measured)


def plotting() -> AbstractContextManager[None]:
    """Return what gives plots the look of ours inside; raises FxpruneError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise FxpruneError("plots need matplotlib; pip install 'fxprune[plot]'") from error
    return matplotlib.rc_context(_STYLE)


def _plot(run: RunRecord, title: str, draw: Callable[[Axes, RunRecord], None]) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw_run(axes: Axes) -> None:
        draw(axes, run)
        axes.set_xlabel("epoch" if run.steps_per_epoch else "optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))

    return svg_of(title, draw_run, 1.4 if draw is _scales else 1.0)


def svg_of(title: str, draw: Callable[[Axes], None], height: float = 1.0) -> str:
    """Return as an SVG what ``draw`` draws, with a legend if several things have labels.

    Of usual ``height`` at 1; inside :func:`plotting`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT * height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside lower left", ncols=2)  # below the axes: beside no line
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue().replace(_TEXT, "currentColor")
    return _named(svg[svg.index("<svg") :], title)


def _named(svg: str, title: str) -> str:
    """Return ``svg`` with a name for who cannot see it, and with ids that no other plot of the page has."""
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _times(run: RunRecord, steps: Sequence[int]) -> list[float]:
    """Return ``steps`` in epochs, or as they are where no epoch is finished."""
    return [step / (run.steps_per_epoch or 1) for step in steps]


def _scales(axes: Axes, run: RunRecord) -> None:
    steps, scales = run.scales()
    gone = run.gone_without_zero()
    labelled: set[str] = set()
    for path, values in scales.items():
        fate = "reached zero" if values[-1] == 0 else "gone" if path in gone else "stays"
        last = gone.get(path) if fate == "gone" else None
        known = len(steps) if last is None else sum(step <= last for step in steps)
        label = None if fate in labelled else f"gone {run.gone_how}" if fate == "gone" else fate
        labelled.add(fate)
        times = _times(run, steps[:known])
        axes.plot(times, values[:known], linewidth=1.0, alpha=0.75, label=label, **_LOOKS[fate])
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _layers(axes: Axes, run: RunRecord, name: str = "layers_left") -> None:
    from matplotlib.ticker import MaxNLocator

    _steps(axes, run, name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _channels(axes: Axes, run: RunRecord) -> None:
    _layers(axes, run, "channels_left")


def _macs(axes: Axes, run: RunRecord) -> None:
    _steps(axes, run, "macs_left")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(percent)


def _widths(axes: Axes, run: RunRecord) -> None:
    steps, widths = run.widths()
    for values in widths.values():
        axes.step(_times(run, steps), values, where="post", color=_KEPT, linewidth=1.0, alpha=0.75)
    axes.set_ylim(bottom=0)


def _saved_by(axes: Axes, run: RunRecord) -> None:
    steps, saved = run.saved_by()
    for (kind, values), color, dashes in zip(saved.items(), COLORS, ("-", "--", ":"), strict=False):
        axes.step(_times(run, steps), values, where="post", color=color, linestyle=dashes, linewidth=1.6, label=kind)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(percent)


def _steps(axes: Axes, run: RunRecord, name: str) -> None:
    steps, values = run.series(name)
    axes.step(_times(run, steps), values, where="post", color=_KEPT, linewidth=1.6)


def _loss(axes: Axes, run: RunRecord) -> None:
    _with_finetuning(axes, run, "loss")
    axes.set_ylim(bottom=0)


def _top1(axes: Axes, run: RunRecord) -> None:
    _with_finetuning(axes, run, "top1")
    axes.yaxis.set_major_formatter(percent)


def _with_finetuning(axes: Axes, run: RunRecord, name: str) -> None:
    """Plot what is measured once an epoch, while layers shrink and after their removal."""
    steps, values = run.series(name, epochs=name == "loss")
    look: dict[str, Any] = {"linewidth": 1.6, "markersize": 3}
    axes.plot(_times(run, steps), values, color=_KEPT, marker="o", label="while layers shrink", **look)
    steps, values = run.finetuning_series(name, epochs=name == "loss")
    if steps:
        more: dict[str, Any] = {"color": _ZERO, "linestyle": "--", "marker": "s", "label": "fine-tuning"}
        axes.plot(_times(run, steps), values, **more, **look)
        axes.axvline(*_times(run, [run.rows[-1]["step"]]), color=_TEXT, linewidth=0.8, linestyle=":")


def percent(value: float, _: float) -> str:
    """Return a share of 1 as a tick shows it."""
    return f"{value:.0%}" if abs(value * 100 - round(value * 100)) < 1e-6 else f"{value:.1%}"
