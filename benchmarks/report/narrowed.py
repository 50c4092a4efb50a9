"""The sections of networks that were narrowed: by how channels are chosen, with layers, by gates of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report.pages import BATCH_SIZES, Record, Section, percent, signed
from benchmarks.report.training_plot import drawn

_KINDS = ("convs", "branches", "channels")
_NARROWED_HEADERS = (
    *("", "seeds", "MACs left", "parameters left"),
    *("the cut alone", "norms anew", "after an epoch", "at the end"),
    *("top-1, test", "against the first chosen"),
)
_SPLIT_HEADERS = (
    *("", "seeds", "MACs left", "parameters left", "saved by layers, by channels", "time, batch 1", "batch 64"),
    *("top-1, held out", "top-1, test", "against both", "against the baseline"),
)
_WIDTHS_HEADERS = (
    *("", "seeds", "alpha", "MACs left", "parameters left"),
    *("top-1, held out", "top-1, test", "difference"),
)


def channels(network: str, record: Record) -> Section:
    """Return the section of ways to narrow a network."""
    arms, chosen = record["arms"], list(record["chosen"].values())
    rows = [[arm, len(one["seeds"]), *_narrowed_cells(one, record["baseline"])] for arm, one in arms.items()]
    shown = [arm for arm in arms if arm in chosen or arm.startswith(("baseline", "random"))]
    draw = drawn({arm: arms[arm]["path"] for arm in shown}, f"{network}: one seed, images held out of training")
    return Section(f"{network}, ways to narrow it", _how_it_was_narrowed(record), rows, _NARROWED_HEADERS, draw)


def _how_it_was_narrowed(record: Record) -> str:
    settings = record["settings"]
    tuned = [one["fine_tuned"] for one in record["baseline"]["top1_choosing"].values()]
    runs = [run for one in record["arms"].values() for run in one["seeds"].values()]
    changes = [abs(run["top1"] - run["top1_before_removal"]) for run in runs if "top1_before_removal" in run]
    most = f"{100 * max(changes, default=0):.2f}"
    at_removal = f" Removal of what was trained to zero changed top-1 by at most {most} points." if changes else ""
    not_run = f" Not run: {'; '.join(record['not_run'])}." if record["not_run"] else ""
    return (
        f"{settings['target']:g} of the MACs wanted, seeds {', '.join(map(str, record['seeds']))}, "
        f"{settings['precision']}; {settings['epochs']} epochs of fine-tuning, then as many for every arm. "
        f"{settings['choosing']:,} training images are held out to choose on, and columns but the last two are of "
        f"these: {percent(sum(tuned) / len(tuned))} before anything is cut. Chosen by them, each among its "
        f"variants that were run: {'; '.join(record['chosen'].values())}. The last column is test top-1 less "
        f"that of the first chosen, with the paired standard error over the test images, in points."
        f"{at_removal}{not_run}"
    )


def _narrowed_cells(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    mean, against = arm["mean"], arm.get("against")
    shares = [f"{mean[name] / baseline[name]:.1%}" for name in ("macs", "params")]
    steps = ("top1_choosing_cut", "top1_choosing_recalibrated", "top1_choosing_first_epoch", "top1_choosing", "top1")
    cells = [percent(mean[step]) if step in mean else "" for step in steps]
    if against is None:
        return [*shares, *cells, ""]
    return [*shares, *cells, signed(against)]


def depth_and_width(network: str, record: Record) -> Section:
    """Return the section of layers, channels and both, to the same share of a cost."""
    settings = record["settings"]
    tuned = [one["fine_tuned"] for one in record["baseline"]["top1_choosing"].values()]
    runs = [run for one in record["arms"].values() for run in one["seeds"].values()]
    most = max((abs(run["at_removal"]) for run in runs if "at_removal" in run), default=0.0)
    not_run = f" Not run: {'; '.join(record['not_run'])}." if record["not_run"] else ""
    text = (
        f"{settings['target']:g} of the MACs, or of the parameters, wanted; seeds "
        f"{', '.join(map(str, record['seeds']))}, {settings['precision']}; {settings['epochs']} epochs of "
        f"fine-tuning ({percent(sum(tuned) / len(tuned))} of the images held out), then as many for every arm. "
        "Shares saved are of the cost that is wanted. The last columns are test top-1 less that of both, and less "
        "that of the baseline trained on, with the paired standard error over the test images, in points. Removal "
        f"changed top-1 by at most {100 * most:.2f} points.{not_run}"
    )
    rows = [
        [arm, len(one["seeds"]), *_split_cells(arm, one, record["baseline"])] for arm, one in record["arms"].items()
    ]
    draw = drawn({arm: one["path"] for arm, one in record["arms"].items()}, f"{network}: one seed, held-out images")
    return Section(f"{network}, depth and width", text, rows, _SPLIT_HEADERS, draw)


def _split_cells(arm: str, one: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    mean, runs = one["mean"], list(one["seeds"].values())
    shares = [f"{mean[name] / baseline[name]:.1%}" for name in ("macs", "params")]
    cost, saved = "params" if arm.endswith("parameters") else "macs", ""
    if "saved_by" in runs[0]:
        kinds = [{kind: run["saved_by"].get(kind, {}).get(cost, 0.0) for kind in _KINDS} for run in runs]
        layers = [one["convs"] + one["branches"] for one in kinds]
        channels = [one["channels"] for one in kinds]
        saved = ", ".join(f"{sum(each) / len(each):.1%}" for each in (layers, channels))
    times = [[run[batch]["ratio"] for run in one["times"].values()] for batch in BATCH_SIZES]
    times_told = [f"{sum(each) / len(each):.2f}" if each else "" for each in times]
    top1 = [percent(mean[name]) for name in ("top1_choosing", "top1")]
    against = [signed(found) if (found := one.get(name)) else "" for name in ("against", "against_baseline")]
    return [*shares, saved, *times_told, *top1, *against]


def ucp(network: str, record: Record) -> Section:
    """Return the section of widths by gates of attention, against others at equal counts."""
    settings, compared = record["settings"], record["compared_with"]
    others = "".join(f", or for '{arm}' that of '{other}'" for arm, other in compared.items() if other != "UCP")
    not_run = f" Not run: {'; '.join(record['not_run'])}." if record["not_run"] else ""
    text = (
        f"Every network from scratch, {settings['epochs']} epochs, {settings['precision']}, seeds "
        f"{', '.join(map(str, record['seeds']))}. UCP: {settings['target']:g} of the MACs wanted, the small rate "
        f"{settings['small']:g}; uniform and random widths at its MACs, or at its parameters. "
        f"{settings['choosing']:,} training images are held out. The last column is test top-1 less that of UCP"
        f"{others}, with the paired standard error over the test images, in points."
        f"{not_run}"
    )
    rows = [
        [arm, len(one["seeds"]), _alpha(arm, one), *_widths_cells(one, record["unpruned"])]
        for arm, one in record["arms"].items()
    ]
    draw = drawn({arm: one["path"] for arm, one in record["arms"].items()}, f"{network}: one seed, held-out images")
    return Section(f"{network}, widths alone", text, rows, _WIDTHS_HEADERS, draw)


def _alpha(arm: str, one: Mapping[str, Any]) -> str:
    """Return the mean alpha; of controls it is a level of theirs, and not told."""
    return f"{one['mean']['alpha']:.4g}" if arm.startswith("UCP") else ""


def _widths_cells(arm: Mapping[str, Any], unpruned: Mapping[str, Any]) -> list[str]:
    mean, against = arm["mean"], arm.get("against")
    shares = [f"{mean[name] / unpruned[name]:.1%}" for name in ("macs", "params")]
    top1 = [percent(mean[name]) for name in ("top1_choosing", "top1")]
    return [*shares, *top1, "" if against is None else signed(against)]
