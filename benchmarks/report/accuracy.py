"""The page of trainings: what those of accuracy/ recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.pages import Draw, Page, Record, Section, page_of_records, percent, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH_SIZES = ("1", "64")
_KINDS = ("convs", "branches", "channels")
_PRUNED_HEADERS = (
    *("", "top-1", "against the baseline", "MACs", "parameters", "time, batch 1", "batch 64"),
    *("distillation: outputs, maps, teachers", "shrunk in"),
)
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


def page() -> Page:
    """Return the page."""
    sections = {
        "cifar10": pruned,
        "channels": channels,
        "depth_and_width": depth_and_width,
        "ucp": ucp,
        "removal": removal,
        "shrinking": shrinking,
        "plain": plain,
    }
    return page_of_records("accuracy", "Accuracy", sections)


def pruned(network: str, record: Record) -> Section:
    """Return the section of a pruned network against its fine-tuned baseline, and its way there."""
    arms = record["pruned"]
    paths = {"baseline": record["baseline"]["path"], **{f"{t} of the MACs": one["path"] for t, one in arms.items()}}
    against = "fine-tuned" if _has_weights(record) else "unpruned, from scratch"
    return Section(
        f"{network}, pruned against {against}",
        _how_it_was_trained(record),
        [*_unpruned_rows(record), *(_pruned_row(record, target) for target in arms)],
        _PRUNED_HEADERS,
        _drawn(paths, f"{network}: training, scales closing meanwhile"),
    )


def _has_weights(record: Record) -> bool:
    """Say whether all arms started from a checkpoint."""
    return bool(record["settings"].get("weights", True))


def _unpruned_rows(record: Record) -> list[list[Any]]:
    base, has_weights = record["baseline"], _has_weights(record)
    start = "the checkpoint as it is" if has_weights else "the first weights"
    trained = "fine-tuned (baseline)" if has_weights else "unpruned (baseline)"
    return [
        [start, percent(record["checkpoint_top1"]), *[""] * 7],
        [trained, percent(base["top1"]), "", f"{base['macs']:,}", f"{base['params']:,}", 1, 1, "", ""],
    ]


def _pruned_row(record: Record, target: str) -> list[Any]:
    one = record["pruned"][target]
    return [
        f"{1 - one['macs'] / record['baseline']['macs']:.1%} of the MACs removed",
        percent(one["top1"]),
        f"{100 * one['against_baseline']:+.2f}",
        f"{one['macs']:,}",
        f"{one['params']:,}",
        *(f"{record['latency'][batch]['ratio'][target]:.2f}" for batch in BATCH_SIZES),
        f"{one['distill']:g}, {one.get('distill_features', 0):g}, {one['teachers']}",
        f"{one['shrink_share']:.0%}",
    ]


def _how_it_was_trained(record: Record) -> str:
    base, settings = record["baseline"], record["settings"]
    changes = [one["accuracy_after_removal"] - one["accuracy_before_removal"] for one in record["pruned"].values()]
    shared = f" The baseline is that of {base['of']}, in {base['precision']}." if "of" in base else ""
    return (
        f"{settings['epochs']} epochs for every network, seed {settings['seed']}, {settings['precision']}; times "
        f"over the baseline's.{_where_it_was_trained(record)}{shared} The removal itself changed top-1 by at most "
        f"{100 * max(map(abs, changes)):.2f} points."
    )


def _where_it_was_trained(record: Record) -> str:
    """Return a sentence, or nothing if it was the machine that the record names anyway."""
    base = record["baseline"]
    borrowed = "of" in base  # a baseline of another record: it was not trained here
    trained = [*record["pruned"].values(), *([] if borrowed else [base])]
    devices = sorted(set().union(*map(_devices, trained)))
    if devices == ["cpu"]:
        return ""
    what = "What was pruned" if borrowed else "All of it"
    return f" {what} was trained on {' and '.join(devices)}; times are of the machine named below."


def _devices(arm: Mapping[str, Any]) -> set[str]:
    """Return where the epochs of an arm were trained; older records name only where it was finished."""
    named = {epoch["device"] for epoch in arm["path"] if "device" in epoch}
    return named or {arm.get("hardware", {}).get("gpu") or "cpu"}


def channels(network: str, record: Record) -> Section:
    """Return the section of ways to narrow a network."""
    arms, chosen = record["arms"], list(record["chosen"].values())
    rows = [[arm, len(one["seeds"]), *_narrowed_cells(one, record["baseline"])] for arm, one in arms.items()]
    shown = [arm for arm in arms if arm in chosen or arm.startswith(("baseline", "random"))]
    draw = _drawn({arm: arms[arm]["path"] for arm in shown}, f"{network}: one seed, images held out of training")
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
    draw = _drawn({arm: one["path"] for arm, one in record["arms"].items()}, f"{network}: one seed, held-out images")
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
    draw = _drawn({arm: one["path"] for arm, one in record["arms"].items()}, f"{network}: one seed, held-out images")
    return Section(f"{network}, widths alone", text, rows, _WIDTHS_HEADERS, draw)


def _alpha(arm: str, one: Mapping[str, Any]) -> str:
    """Return the mean alpha; of controls it is a level of theirs, and not told."""
    return f"{one['mean']['alpha']:.4g}" if arm.startswith("UCP") else ""


def _widths_cells(arm: Mapping[str, Any], unpruned: Mapping[str, Any]) -> list[str]:
    mean, against = arm["mean"], arm.get("against")
    shares = [f"{mean[name] / unpruned[name]:.1%}" for name in ("macs", "params")]
    top1 = [percent(mean[name]) for name in ("top1_choosing", "top1")]
    return [*shares, *top1, "" if against is None else signed(against)]


def removal(network: str, record: Record) -> Section:
    """Return the section of top-1 right before and after removal."""
    rows = [
        [
            f"{1 - row['macs_left']:.1%}",
            row["layers_removed"],
            percent(row["top1_before"]),
            percent(row["top1_after"]),
            f"{100 * row['change']:+.2f}",
            f"{row['max_relative_difference']:.0e}",
        ]
        for row in record["rows"]
    ]
    text = (
        f"One training of {record['settings']['epochs']} epochs in which the scales go to zero one after the other; "
        "at each share the zeros are removed from a copy, with no training after it. "
        f"The checkpoint: {percent(record['checkpoint_top1'])}."
    )
    headers = ["MACs removed", "layers", "top-1 before", "right after", "change", "largest difference, float64"]
    return Section(f"{network}, right after removal", text, rows, headers, _drawn_by_share(record["rows"]))


def _drawn_by_share(rows: Sequence[Mapping[str, Any]]) -> Draw:
    def draw(axes: Axes) -> None:
        left = [100 * (1 - row["macs_left"]) for row in rows]
        axes.plot(left, [100 * row["top1_before"] for row in rows], "o-", label="scales at zero")
        axes.plot(left, [100 * row["top1_after"] for row in rows], "x", label="layers removed")
        axes.set(xlabel="MACs removed, %", ylabel="held-out top-1, %", title="no training between the two")
        axes.legend()

    return draw


def shrinking(network: str, record: Record) -> Section:
    """Return the section of ways to shrink the scales."""
    settings, arms = record["settings"], record["arms"]
    text = (
        f"The same checkpoint, {settings['epochs']} epochs each; {settings['target']:g} of the MACs left after "
        f"{settings['shrink_share']:.0%} of the steps; what is not zero then is cut, smallest first. "
        f"Seed {settings['seed']}, {settings['precision']}."
    )
    headers = ["", "scales at zero", "top-1 before the cut", "right after", "at the end", "MACs left"]
    rows = [[arm, *_shrunk_cells(one)] for arm, one in arms.items()]
    draw = _drawn({arm: one["path"] for arm, one in arms.items()}, "ways to shrink")
    return Section(f"{network}, ways to shrink the scales", text, rows, headers, draw)


def _shrunk_cells(arm: Mapping[str, Any]) -> list[str]:
    zeros = sum(scale == 0 for scale in arm["scales"])
    top1 = (arm["top1_before"], arm["top1_after"], arm["path"][-1]["top1"])
    return [f"{zeros} of {len(arm['scales'])}", *map(percent, top1), f"{arm['macs_left']:.1%}"]


def plain(network: str, record: Record) -> Section:
    """Return the section of a plain network with and without ResConv."""
    fused = record["resconv"]
    arms = {"plain": record["plain"], "with ResConv": fused}
    rows = [[arm, percent(one["top1"]), f"{one['path'][-1]['loss']:.3f}"] for arm, one in arms.items()]
    rows.append(["with ResConv, fused", percent(fused["top1_fused"]), ""])
    text = (
        f"From scratch, {record['settings']['epochs']} epochs, the same schedule and first weights. Fused, it has "
        f"the plain network's {fused['macs'][1]:,} MACs and {fused['params'][1]:,} parameters; largest difference "
        f"{fused['max_relative_difference']:.0e} (float64)."
    )
    draw = _drawn({arm: one["path"] for arm, one in arms.items()}, network)
    return Section(f"{network}, from scratch", text, rows, ["", "top-1", "last loss"], draw)


def _drawn(paths: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Draw:
    """Return what draws top-1 against epochs, a line a path."""

    def draw(axes: Axes) -> None:
        for label, path in paths.items():
            axes.plot([p["epoch"] for p in path], [100 * p["top1"] for p in path], label=label)
        axes.set(xlabel="epoch", ylabel="held-out top-1, %", title=title)
        axes.legend()

    return draw
