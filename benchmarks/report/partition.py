"""The page of heads in blocks: what partition of speed/ and of accuracy/ recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks import RESULTS
from benchmarks.report.pages import (
    Draw,
    Page,
    Plot,
    Record,
    Section,
    grouped_bars,
    page_of_records,
    percent,
    read_record,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RUNS = ("linears", "conv", "bmm", "drawn, picked by index", "sparse")
_TITLE = "Heads in blocks"


def page() -> Page:
    """Return the page."""
    chosen = page_of_records("partition", _TITLE, {"partition": accuracy})
    if not (RESULTS / "partition.json").exists():
        return chosen
    record = read_record("partition")
    timed = speed(record)
    parts = [timed.markdown("partition", record), *chosen.parts]
    plots: list[Plot] = [timed.plot("partition"), *chosen.plots]
    return Page(chosen.name, chosen.title, parts, plots)


def speed(record: Record) -> Section:
    """Return the section of times: how many times as fast as the unpruned head on one thread each way is."""
    text = (
        "Heads of random weights: milliseconds of the unpruned head on one thread, and how many times as fast it is "
        "in k blocks: in each form, with drawn blocks that are picked by index, and as torch.sparse with as many "
        "weights; then as k processes of a thread each, with their transport. On two threads: milliseconds of the "
        "unpruned head and of its blocks. The last columns: what is left of its multiplications, of the bytes of its "
        "weights, and of its energy by a model, which is no measurement."
    )
    headers = ["head", "batch", "k", "ms", *_RUNS, "processes", "two threads", "in blocks", "MACs", "bytes", "energy"]
    rows = [_timed(key, row) for key, row in record["rows"].items()]
    return Section("Time", text, rows, headers, _speed_drawn(record["rows"]))


def _timed(key: str, row: Mapping[str, Any]) -> list[Any]:
    one, two, costs = row["one_thread_ms"], row["two_threads_ms"], (row["unpruned"], row["blocks"])
    ratios = [f"{one['unpruned'] / ms:.2f}" for ms in (*(one[name] for name in _RUNS), row["processes_ms"])]
    left = [f"{costs[1][name] / costs[0][name]:.1%}" for name in ("macs", "weight_bytes", "millijoules_of_model")]
    both = [f"{two[name]:.2f}" for name in ("unpruned", "linears")]
    return [*key.split("/"), f"{one['unpruned']:.2f}", *ratios, *both, *left]


def _speed_drawn(rows: Mapping[str, Mapping[str, Any]]) -> Draw:
    def draw(axes: Axes) -> None:
        for name in dict.fromkeys(key.rpartition("/")[0] for key in rows):
            mine = {int(key.split("/")[2]): row for key, row in rows.items() if key.rpartition("/")[0] == name}
            times = [row["one_thread_ms"] for row in mine.values()]
            axes.plot(list(mine), [one["unpruned"] / one["linears"] for one in times], marker="o", label=name)
        counts = sorted({int(key.split("/")[2]) for key in rows})
        axes.plot(counts, counts, color="grey", linestyle=":", label="k")
        axes.set(xlabel="blocks", ylabel="times as fast", title="blocks as layers, one thread")
        axes.legend(fontsize=7)

    return draw


def accuracy(network: str, record: Record) -> Section:
    """Return the section of what a head loses, by each way to choose its blocks."""
    rows = [
        [
            row["blocks"],
            row["choice"],
            row["stage"],
            row["networks"],
            f"{row['macs_left']:.1%}",
            percent(row["top1"]),
            _against(row),
        ]
        for row in record["rows"]
    ]
    unpruned = mean(one["top1"] for one in record["unpruned"].values())
    count = len(record["unpruned"])
    text = (
        f"Test top-1, the mean over checkpoints ({count}; {percent(unpruned)} unpruned) and seeds of choosing; "
        f"trained: for {record['settings']['epochs']} epochs at a rate of {record['settings']['lr']:g} at most. The "
        "last column is less drawn blocks of the same checkpoint and seed, with the standard error over these, in "
        "points."
    )
    headers = ["blocks", "choice", "stage", "networks", "MACs left", "top-1", "against drawn"]
    return Section(f"{network}, in blocks", text, rows, headers, _accuracy_drawn(record["rows"]))


def _against(row: Mapping[str, Any]) -> str:
    found = row["against_random"]
    if row["choice"] == "random" or found["difference"] is None:
        return ""
    return signed(found) if found["standard_error"] is not None else f"{100 * found['difference']:+.2f}"


def _accuracy_drawn(rows: Sequence[Mapping[str, Any]]) -> Draw:
    kinds = list(dict.fromkeys((row["blocks"], row["stage"]) for row in rows))
    choices = list(dict.fromkeys(row["choice"] for row in rows))

    def draw(axes: Axes) -> None:
        known = {(row["blocks"], row["stage"], row["choice"]): 100 * row["top1"] for row in rows}
        series = {choice: [known.get((*kind, choice), 0.0) for kind in kinds] for choice in choices}
        grouped_bars(axes, [f"{blocks}\n{stage}" for blocks, stage in kinds], series, small=6)
        axes.set(ylabel="test top-1, %", title="by the way blocks are chosen")

    return draw
