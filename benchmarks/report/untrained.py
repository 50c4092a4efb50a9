"""The page of pruning without training: what untrained, repairs and blend of accuracy/ recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.pages import Draw, Page, Record, Section, grouped_bars, page_of_records, percent, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES_OF_BLEND = {"blend": "the searched blend"}


def page() -> Page:
    """Return the page."""
    sections = {"untrained": untrained, "repairs": repairs, "blend": blend}
    return page_of_records("untrained", "Without training", sections)


def untrained(network: str, record: Record) -> Section:
    """Return the section of what --no-train makes of a network, with its controls."""
    stages: Sequence[str] = record["stages"]
    kinds = list(dict.fromkeys((row["left"], row["what"], row["choice"]) for row in record["rows"]))
    known = {(row["left"], row["what"], row["choice"], row["stage"]): row for row in record["rows"]}
    rows = []
    for kind in kinds:
        of = [known.get((*kind, stage)) for stage in stages]
        first = next(one for one in of if one is not None)
        last = known.get((*kind, "repaired"))
        against = signed(last["against_unpruned"]) if last else ""
        cells = [percent(one["top1"]) if one else "" for one in of]
        rows.append([f"{kind[0]:g}", kind[1], kind[2], f"{first['macs_left']:.1%}", *cells, against])
    unpruned = ", ".join(percent(one["top1"]) for one in record["checkpoints"].values())
    settings = record["settings"]
    text = (
        f"Test top-1 of {_checkpoints(record)} ({unpruned} unpruned), chosen and repaired on {settings['images']} "
        f"training images; random: as many layers, and channels, drawn. The last column: repaired, less unpruned, "
        f"with the paired standard error over the test images, in points."
    )
    headers = ["MACs wanted", "what", "choice", "MACs left", *stages, "against unpruned"]
    return Section(f"{network}, without training", text, rows, headers, _bars(rows, 4, stages))


def repairs(network: str, record: Record) -> Section:
    """Return the section of repairs at equal masks."""
    rows = [
        [
            f"{row['left']:g}",
            row["mask"],
            row["repair"] + (", norms anew" if row["norms"] else ""),
            row["images"] or "",
            f"{row['macs_left']:.1%}",
            percent(row["top1"]),
            signed(row["against_ours"]) if "against_ours" in row else "",
        ]
        for row in sorted(record["rows"], key=lambda row: (-row["left"], row["mask"], row["images"], row["norms"]))
        if row["mask"]
    ]
    unpruned = [row["top1"] for row in record["rows"] if not row["mask"]]
    text = (
        f"Test top-1 of {_checkpoints(record)} ({percent(unpruned[0])} unpruned), on "
        f"{record['settings']['test_images']:,} test images; channels of blocks, the same share in each. Masks look "
        f"at {record['settings']['mask_images']} training images. The last column is less ours of the same row, with "
        f"the paired standard error over the test images, in points."
    )
    headers = ["MACs wanted", "mask", "repair", "images", "MACs left", "top-1", "against ours"]
    draw = _repairs_drawn(record["rows"])
    return Section(f"{network}, repairs at the same masks", text, rows, headers, draw, (8, 3.4))


def _checkpoints(record: Record) -> str:
    count = len(record["checkpoints"])
    return f"the mean of {count} checkpoints" if count > 1 else "one checkpoint"


def _repairs_drawn(rows: Sequence[Mapping[str, Any]]) -> Draw:
    shown = [row for row in rows if row["images"] in (0, 512) and not row["norms"] and row["mask"]]
    repairs = list(dict.fromkeys(row["repair"] for row in shown))

    def draw(axes: Axes) -> None:
        kinds = list(dict.fromkeys((row["left"], row["mask"]) for row in shown))
        known = {(row["left"], row["mask"], row["repair"]): 100 * row["top1"] for row in shown}
        series = {repair: [known.get((*kind, repair), 0.0) for kind in kinds] for repair in repairs}
        grouped_bars(axes, [f"{left:g}\n{mask}" for left, mask in kinds], series)
        axes.set(ylabel="test top-1, %", title="repairs on 512 images", ylim=(0, 105))
        axes.legend(fontsize=7, ncols=len(series), loc="upper center")

    return draw


def blend(network: str, record: Record) -> Section:
    """Return the section of a searched blend of criteria against its controls."""
    rows = []
    for name, one in record["rows"].items():
        cells = []
        for after in one["after"]:
            above = "blend_above" in after
            error = {"difference": after["blend_above"], "standard_error": after["standard_error"]} if above else None
            cells += [percent(after["top1"]), signed(error) if error else ""]
        rows.append([NAMES_OF_BLEND.get(name, name), len(one["seeds"]), *cells])
    text = (
        f"Seeds {', '.join(map(str, record['seeds']))}; channels of blocks, norms measured anew. Test top-1, and how "
        f"far the searched blend is above, with the paired standard error over the test images, in points."
    )
    headers = ["", "seeds", "cut", "blend above", "an epoch later", "blend above"]
    return Section(f"{network}, blended criteria", text, rows, headers, _blend_drawn(record))


def _blend_drawn(record: Record) -> Draw:
    def draw(axes: Axes) -> None:
        found = [one["after"] for one in record["rows"].values()]
        labels = ("cut", "an epoch later")
        series = {label: [100 * after[place]["top1"] for after in found] for place, label in enumerate(labels)}
        grouped_bars(axes, list(record["rows"]), series)
        axes.set(ylabel="test top-1, %", title="channels by a blend of criteria")

    return draw


def _bars(rows: Sequence[Sequence[Any]], first: int, stages: Sequence[str]) -> Draw:
    """Return what draws the columns from ``first`` on, a group of bars a row."""

    def draw(axes: Axes) -> None:
        series = {
            stage: [float(str(row[first + number]).rstrip("%") or 0) for row in rows]
            for number, stage in enumerate(stages)
        }
        grouped_bars(axes, [f"{row[0]}\n{row[1]}\n{row[2]}" for row in rows], series, small=6)
        axes.set(ylabel="test top-1, %", title="without training, and an epoch later")

    return draw
