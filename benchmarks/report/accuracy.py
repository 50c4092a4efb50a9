"""The page of trainings: what those of accuracy/ recorded; networks that lost channels are in narrowed.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.narrowed import channels, depth_and_width, ucp
from benchmarks.report.pages import BATCH_SIZES, Draw, Page, Record, Section, page_of_records, percent
from benchmarks.report.training_plot import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PRUNED_HEADERS = (
    *("", "top-1", "against the baseline", "MACs", "parameters", "time, batch 1", "batch 64"),
    *("distillation: outputs, maps, teachers", "shrunk in"),
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
        drawn(paths, f"{network}: training, scales closing meanwhile"),
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
    draw = drawn({arm: one["path"] for arm, one in arms.items()}, "ways to shrink")
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
    draw = drawn({arm: one["path"] for arm, one in arms.items()}, network)
    return Section(f"{network}, from scratch", text, rows, ["", "top-1", "last loss"], draw)
