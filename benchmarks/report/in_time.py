"""The page of targets in milliseconds: what prediction of speed/ and equal_time of accuracy/ recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import RESULTS
from benchmarks.report.pages import (
    Draw,
    Page,
    Record,
    Section,
    page_of_records,
    percent,
    read_record,
    signed,
    source,
    table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def page() -> Page:
    """Return the page."""
    chosen = page_of_records("in_time", "A target in milliseconds", {"equal_time": equal_time})
    if not (RESULTS / "prediction.json").exists():
        return chosen
    return Page(chosen.name, chosen.title, [prediction(read_record("prediction")), *chosen.parts], chosen.plots)


def prediction(record: Record) -> str:
    """Return the section of predicted times over measured ones."""
    text = (
        "Random weights; the fit has seen eight random prunings of a network, eight others judge it. Errors are of "
        "predicted over measured milliseconds."
    )
    headers = ["network", "backend", "batch", "median error", "worst", "rank correlation", "spread of repeats"]
    rows = [_predicted(row) for row in record["rows"]]
    headers = [*headers, "ms unpruned", "seconds to measure", "from the cache"]
    return "\n\n".join(["## Predictions", text, table(rows, headers), source(record)])


def _predicted(row: Mapping[str, Any]) -> list[Any]:
    return [
        row["network"],
        row["backend"],
        row["batch"],
        f"{row['median']:.1%}",
        f"{row['worst']:.1%}",
        f"{row['rank_correlation']:.3f}",
        f"{row['spread']:.1%}",
        f"{row['milliseconds']:.2f}",
        f"{row['seconds']:.0f}",
        f"{row['seconds_from_cache']:.1f}",
    ]


def equal_time(network: str, record: Record) -> Section:
    """Return the section of what was taken out for the same time."""
    rows = [_at_equal_time(row) for row in record["rows"]]
    hit = record["on_target"]
    text = (
        f"One thread, eager. The share of the time is that of the emitted network over the unpruned one, in turns, "
        f"in a process of its own: at most {hit['most']:g} and at least {hit['least']:g} of the target in "
        f"{hit['hit']} of {hit['of']} runs of ours. The last column is the test top-1 of both less that of the row, "
        f"on the same images, with the paired standard error, in points."
    )
    headers = [
        *("checkpoint", "batch", "what", "epochs after", "time wanted", "time left", "MACs left"),
        *("top-1, test", "as unpruned", "both above"),
    ]
    return Section(f"{network}, at equal time", text, rows, headers, _drawn(record["rows"]))


def _at_equal_time(row: Mapping[str, Any]) -> list[Any]:
    return [
        f"{row['checkpoint']}, {percent(row['top1_unpruned'])}",
        row["batch"],
        row["arm"],
        row["epochs"],
        f"{row['left']:g}",
        f"{row['clock']['ratio']:.3f}",
        f"{row['macs_left']:.1%}",
        percent(row["top1"]),
        percent(row["agreement"]),
        signed(row["both_above"]) if "both_above" in row else "",
    ]


def _drawn(rows: Sequence[Mapping[str, Any]]) -> Draw:
    def draw(axes: Axes) -> None:
        for arm in dict.fromkeys(row["arm"] for row in rows):
            mine = [row for row in rows if row["arm"] == arm]
            axes.plot([row["clock"]["ratio"] for row in mine], [100 * row["top1"] for row in mine], "o", label=arm)
        axes.set(xlabel="share of the time", ylabel="test top-1, %", title="what to take out for a time")
        axes.legend()

    return draw
