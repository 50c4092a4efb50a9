"""The page of latency and memory at equal MACs: what speed/latency.py recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.report.pages import Page, Record, Section, page_of_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, PEER, UNPRUNED = "fxprune", "torch-pruning", "unpruned"


def page() -> Page:
    """Return the page."""
    return page_of_records("latency", "Latency and memory", {"latency": latency})


def latency(network: str, record: Record) -> Section:
    """Return the section of a network: each of the others' times over that of fxprune's."""
    targets = record["targets"]
    networks = list(next(iter(targets.values()))["costs"])
    compared = [name for name in networks if name != UNPRUNED]
    headers = ["MACs left", "layout", "mode", "batch", *(n for n in networks if n != OURS), "peak MiB", "in training"]
    left = "; ".join(f"at {target}: {_macs_left(one['costs'], compared)}" for target, one in targets.items())
    text = (
        f"Times over that of fxprune's network, medians in turns. MACs left {left}. "
        f"Memory of a forward pass: {', then '.join(compared)}; in training it keeps what the backward pass needs."
    )
    rows = [[target, *_cells(row)] for target, one in targets.items() for row in one["rows"]]

    def draw(axes: Axes) -> None:
        for number, (label, ratio) in enumerate(_slowest(record)):
            axes.barh(number, ratio, color="tab:blue")
            axes.text(ratio, number, f" {ratio:.2f}", va="center")
            axes.text(0.02, number, label, va="center", color="white", fontsize=8)
        axes.axvline(1, color="black")
        axes.set(xlabel="Torch-Pruning's time over fxprune's", yticks=[], title="equal MACs")

    return Section(f"{network}, latency and memory at equal MACs", text, rows, headers, draw)


def _macs_left(costs: dict[str, Any], compared: list[str]) -> str:
    return ", ".join(f"{name} {costs[name]['macs'] / costs[UNPRUNED]['macs']:.1%}" for name in compared)


def _cells(row: dict[str, Any]) -> list[Any]:
    ratios = [f"{ms / row['ms'][OURS]:.2f}" for network, ms in row["ms"].items() if network != OURS]
    memory = [
        " / ".join(f"{mb[train]:.1f}" for network, mb in row["peak_mb"].items() if network != UNPRUNED)
        for train in (0, 1)
    ]
    return [row["layout"], row["mode"], row["batch"], *ratios, *memory]


def _slowest(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the least ratio of each target, layout and mode, with the batch size that has it."""
    for target, one in record["targets"].items():
        ratios: dict[tuple[str, str], dict[int, float]] = {}
        for row in one["rows"]:
            found = ratios.setdefault((row["layout"], row["mode"]), {})
            found[row["batch"]] = row["ms"][PEER] / row["ms"][OURS]
        for (layout, mode), of_batch in ratios.items():
            batch = min(of_batch, key=lambda size: of_batch[size])
            yield f"{target}, {layout}, {mode}: least at batch {batch}", of_batch[batch]
