"""What came of a run, as text: its report's table, and what its reader should know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from fxprune.gates.words import told_by_kind

BEFORE = "unpruned, norms folded"
"""What is timed as the network before."""
_OVERSHOOT = 0.02
RESULTS = {
    "MACs": ("macs_before", "macs_after", ","),
    "parameters": ("params_before", "params_after", ","),
    "held-out top-1": ("accuracy_before", "accuracy_after", ".2%"),
}
WIDTHS_TITLES = ("channels of", "before", "left")
STAGES = {"top1": "top-1", "agreement": "first choice as before", "moved": "outputs moved by"}
_ACTIVATIONS = ("activation_bytes_before", "activation_bytes_after")  # not in reports before schema 3


def before_and_after(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a report compares, as text: what, before, after."""
    rows = [(label, format(report[b], form), format(report[a], form)) for label, (b, a, form) in RESULTS.items()]
    for name, label in (("mask", "masked"), ("repair", "masked and repaired")):
        if f"accuracy_after_{name}" in report:
            before, after = (format(report[one], ".2%") for one in ("accuracy_before", f"accuracy_after_{name}"))
            rows.append((f"top-1, {label}", before, after))
    if "accuracy_baseline" in report:
        baseline, after = (f"{report[name]:.2%}" for name in ("accuracy_baseline", "accuracy_after"))
        rows.append(("top-1 with both trained as long", baseline, after))
    if report.keys() >= set(_ACTIVATIONS):
        before, after = (format(report[name], ",") for name in _ACTIVATIONS)
        where = ", opaque parts left out" if report.get("opaque") else ""
        rows.append((f"peak activation bytes{where}", before, after))
    if "latency" in report:
        rows += _timed(report["latency"])
    for size, times in report.get("latency_ms", {}).items():
        rows.append((f"ms at batch {size} (before: {BEFORE})", f"{times['before']:.2f}", f"{times['after']:.2f}"))
    return rows


def _timed(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what is told of times, where one was asked for."""
    sides = ("before", "after")
    measured = [f"{told[f'{side}_ms']:.3g} (spread {told[f'{side}_spread']:.1%})" for side in sides]
    predicted = [f"{told[f'predicted_{side}_ms']:.3g}" for side in sides]
    title = f"ms, norms folded ({told['conditions']}), target {told['target_ms']:.3g}"
    return [(title, measured[0], measured[1]), ("predicted ms", predicted[0], predicted[1])]


def notes_on(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader of :func:`before_and_after` should know, in sentences."""
    notes = []
    if "accuracy_baseline" not in report and not report.get("settings", {}).get("no_train"):
        notes.append(
            "before is the network as it was given: no unpruned one was trained as long as the pruned one was "
            "(fxprune prune --baseline trains it)"
        )
    target, left = report.get("settings", {}).get("target_macs"), report["macs_after"] / report["macs_before"]
    if target is not None and target - left > _OVERSHOOT:
        notes.append(f"{left:.1%} of the MACs are left where {target:.1%} were asked for: {_why_more_went(report)}")
    return notes


def _why_more_went(report: Mapping[str, Any]) -> str:
    """Return why more went than was asked for, by the way in which a run chooses."""
    if "ucp" in report:
        return "one rule holds in all layers, and convs of a stage lose channels together"
    if report.get("settings", {}).get("search") == "cap":
        return "of each layer go as many channels as held-out accuracy allows on a falling line, and none came nearer"
    what = "layers and chunks of channels go" if "channels_removed" in report else "layers go"
    return f"{what} as a whole, and of those that meet the target the ones that are missed least went"


def _gone(report: Mapping[str, Any]) -> str:
    """Return how many layers went, by kind where the report tells it."""
    if not {"removed", "removable"} <= report.keys():
        return f"{len(report['layers_removed'])} of {report['layers_removable']} removable layers are gone"
    removed, removable = (
        told_by_kind({kind: len(paths) for kind, paths in report[name].items()}) for name in ("removed", "removable")
    )
    told = f"{removed} are gone, of {removable}" if any(report["removable"].values()) else ""
    if "channels_removed" in report:
        channels = f"{report['channels_removed']:,} of {report['channels_removable']:,} channels are gone"
        told = f"{told}; {channels}" if told else channels
    return told


COSTS = {"macs": "MACs", "params": "parameters", "ms": "predicted ms"}
"""What a split is told of, as words."""


def _split(report: Mapping[str, Any]) -> str:
    """Return which shares of the costs went with each kind of what can go, a line a cost; "" where it is one kind."""
    split = report.get("saved_by", {})  # not in reports before schema 6
    lines = ""
    for cost, words in COSTS.items():
        told = split_text(split, cost)
        lines += f"\n{words} saved by {told}" if told else ""
    return lines


def split_text(split: Mapping[str, Mapping[str, float]], cost: str = "macs") -> str:
    """Return a split of one cost in words, "branches 21.0%, channels 29.3%"; "" of a single kind."""
    told = [f"{kind} {shares[cost]:.1%}" for kind, shares in split.items() if cost in shares]
    return ", ".join(told) if len(told) > 1 else ""


def results_text(report: Mapping[str, Any]) -> str:
    """Return the table of :func:`before_and_after`, and how much is gone."""
    table = tabulate(
        before_and_after(report),
        headers=["", "before", "after"],
        colalign=("left", "right", "right"),
        disable_numparse=True,
    )
    table = "\n".join([table, *notes_on(report)])
    if not {"layers_removed", "layers_removable"} <= report.keys():
        return table
    split = _split(report)
    macs, params = (f"{1 - report[f'{name}_after'] / report[f'{name}_before']:.1%}" for name in ("macs", "params"))
    return f"{table}\n{_gone(report)}, with {macs} of the MACs and {params} of the parameters{split}"


def stages_text(report: Mapping[str, Any]) -> str:
    """Return the table of what each step did to held-out images, of a run without training."""
    rows = [
        [name, *("" if one.get(key) is None else f"{one[key]:.2%}" for key in STAGES)]
        for name, one in report["stages"].items()
    ]
    return tabulate(rows, headers=["", *STAGES.values()], disable_numparse=True)


def widths_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the convs that gates of attention judged, as text: path, channels before, channels left."""
    return [(path, f"{before:,}", f"{after:,}") for path, (before, after) in report["ucp"]["widths"].items()]


def trainings_told(report: Mapping[str, Any]) -> str:
    """Return what the two trainings of a run with gates of attention came to."""
    told, seconds = report["ucp"], report["ucp"]["seconds"]
    scratch = report.get("accuracy_before_finetuning", report["accuracy_after"])
    return (
        f"alpha {told['alpha']:.4g}; held-out top-1 {report['accuracy_with_attention']:.2%} with gates of attention "
        f"({seconds['with attention']:,.0f} s), {scratch:.2%} of the plain network from scratch "
        f"({seconds['from scratch']:,.0f} s{', fine-tuning too' if scratch != report['accuracy_after'] else ''})"
    )


def widths_text(report: Mapping[str, Any]) -> str:
    """Return :func:`trainings_told` and the table of :func:`widths_rows`."""
    table = tabulate(
        widths_rows(report), headers=WIDTHS_TITLES, colalign=("left", "right", "right"), disable_numparse=True
    )
    return f"{trainings_told(report)}\n{table}"
