"""How much the parts of a network are missed, as one HTML file: plots and tables; no script, no network.

What is shown is plain data, as ``fxprune sensitivity --json`` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fxprune.render.html import escaped
from fxprune.render.plain_page import plain_page, table
from fxprune.render.plots import COLORS, percent, plotting, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Told = Mapping[str, Any]
_KINDS = {"conv": ("convs", "o"), "branch": ("branches", "s"), "channels": ("channels", "^")}
_SITES = ("where", "what", "goes", "MACs", "params", "missed", "±", "moved", "agrees", "loss", "top-1", "samples")
_CURVE = ("target", "MACs left", "params left", "foretold", "missed", "±", "moved", "agrees", "loss", "top-1")


def sensitivity_page(told: Told, *, title: str, notes: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        told: what :meth:`fxprune.pruning.sensitivity.result.Sensitivity.to_json` returns.
        title: the name of the model.
        notes: lines above the plots.

    Raises:
        FxpruneError: matplotlib is not installed.
    """
    body = [f"<p>{escaped(note)}</p>" for note in notes]
    body.append(f'<div class="plots">{"".join(sensitivity_plots(told).values())}</div>')
    if told["curve"]:
        body += ["<h2>What each target of MACs would cost</h2>", table(_CURVE, map(_of_point, told["curve"]))]
    body += ["<h2>One removal at a time</h2>", table(_SITES, _of_sites(told))]
    return plain_page(f"{title}: sensitivity", body)


def _of_sites(told: Told) -> Iterator[list[str]]:
    whole = told["network"]
    for one in told["sites"]:
        share = f"{one['goes']} of {one['width']}" if one["kind"] == "channels" else "all"
        saved = [one[f"saves_{name}"] / max(whole[name], 1) for name in ("macs", "params")]
        yield [one["path"], one["kind"], share, *map(_share, saved), *_moved(one), f"{one['images']:,}"]


def _of_point(one: Told) -> list[str]:
    if one["measured"] is None:
        return [_share(one["target"]), one["why"], *[""] * (len(_CURVE) - 2)]
    left = map(_share, (one["target"], one["macs_left"], one["params_left"]))
    return [*left, _number(one["foretold"]), *_moved(one["measured"])]


def _moved(one: Told) -> list[str]:
    numbers = [_number(one[name]) for name in ("missed", "error", "moved")]
    loss = "" if one["loss"] is None else f"{one['loss']:+.3g}"
    top1 = "" if one["top1"] is None else f"{one['top1']:+.1%}"
    return [*numbers, _share(one["agreement"]), loss, top1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def sensitivity_plots(told: Told) -> dict[str, str]:
    """Return plots as SVGs: "sites", how much each removal saves and is missed, and "curve", what targets would cost.

    Raises FxpruneError if matplotlib is not installed.
    """
    with plotting():
        found = {"sites": svg_of("missed alone, by the MACs that go", partial(_sites, told), 1.3)}
        if any(one["measured"] is not None for one in told["curve"]):
            found["curve"] = svg_of("missed, by the MACs that are left", partial(_curve, told), 1.3)
        return found


def _sites(told: Told, axes: Axes) -> None:
    for color, (kind, (label, marker)) in zip(COLORS, _KINDS.items(), strict=True):
        mine = [one for one in told["sites"] if one["kind"] == kind]
        if mine:
            saved = [one["saves_macs"] / max(told["network"]["macs"], 1) for one in mine]
            missed = [one["missed"] for one in mine]
            look: dict[str, Any] = {"marker": marker, "markersize": 4, "alpha": 0.75, "linestyle": ""}
            axes.plot(saved, missed, color=color, label=label, **look)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(percent)


def _curve(told: Told, axes: Axes) -> None:
    known = [one for one in told["curve"] if one["measured"] is not None]
    left = [one["macs_left"] for one in known]
    axes.plot(left, [one["foretold"] for one in known], color=COLORS[0], marker="o", markersize=3, label="foretold")
    measured = [one["measured"]["missed"] for one in known]
    axes.plot(left, measured, color=COLORS[1], marker="s", markersize=3, linestyle="--", label="measured")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(percent)
