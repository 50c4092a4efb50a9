"""The page of the zoo: its summary, results/zoo.json, and of some models the rows in results/zoo/."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks import RESULTS
from benchmarks.report import zoo_peers
from benchmarks.report.pages import Page, Record, read_record, table
from benchmarks.zoo.models import GROUPS
from benchmarks.zoo.row import read_rows

SHARES = (
    "resnet50",
    "resnet152",
    "regnet_y_8gf",
    "efficientnet_b0",
    "mobilenet_v2",
    "convnext_tiny",
    "resnext50_32x4d",
)
_HEADERS = (
    *("", "models", "end to end", "every conv visible", "not emitted", "declined", "failed", "silently different"),
    *("largest difference", "removable MACs (median)", "needless nodes left", "seconds (median)"),
)
_HEADERS_OF_CHANNELS = (
    *("", "models", "right", "declined", "failed", "silently different", "largest difference"),
    *("outputs that can go (median)", "MACs (median)", "seconds (median)"),
)


def page() -> Page:
    """Return the page."""
    summary = read_record("zoo")
    return Page("zoo", "The zoo", [*_end_to_end(summary), *_removable(), *_channels(), *zoo_peers.sections()])


def _end_to_end(summary: Record) -> list[str]:
    """Return what every model goes through, and how many of each group come out."""
    command = summary["command"].partition(";")[0]
    return [
        "Every model goes through tracing, insertion of both kinds, random scales with half of them zero, removal, "
        "fusing, folding, simplifying (compared in float64), another batch and image size, and emission, reloaded "
        "without fxprune. A model is *silently different* if two graphs that must agree do not and nothing raised; "
        "*not emitted* if a part of it stayed opaque, so that there is no source to write. "
        f"Command: `{command}`; one row a model in [zoo/](zoo).",
        table([[GROUPS[name], *_cells(group)] for name, group in summary["groups"].items()], _HEADERS),
    ]


def _cells(group: dict[str, Any]) -> list[Any]:
    return [
        *(group[name] for name in ("models", "ok", "every_conv_visible")),
        len(group["not_emitted"]),
        *(group[name] for name in ("declined", "failed", "different")),
        _formatted(group["largest_difference"], ".1g"),
        _formatted(group["median_removable_share"], ".0%"),
        group["needless_nodes"],
        _formatted(group["median_seconds"], ".0f"),
    ]


def _formatted(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _removable() -> list[str]:
    """Return the share of the MACs that can go, of well-known models; nothing if none of them has been run."""
    rows = read_rows(RESULTS / "zoo" / "fxprune.jsonl")
    found = {name: rows.get(f"torchvision:{name}", {}).get("removable_share") for name in SHARES}
    lines = [[name, f"{share:.1%}"] for name, share in found.items() if share is not None]
    if not lines:
        return []
    return [
        "MACs that are gone once every removable layer and branch is, for images of 64 x 64 (for larger ones the "
        "classifier and the like weigh less):",
        table(lines, ["torchvision", "of the MACs"]),
    ]


def _channels() -> list[str]:
    """Return what became of the channels of the models that were run; nothing if none was."""
    rows = list(read_rows(RESULTS / "zoo" / "channels.jsonl").values())
    lines = [
        [GROUPS[name], *_cells_of_channels([row for row in rows if row["kind"] == name])]
        for name in GROUPS
        if any(row["kind"] == name for row in rows)
    ]
    if not lines:
        return []
    return [
        f"Channels, at {len(rows)} of the models: gates on all that can go, half of each group's at zero, removal, "
        "fusing; and once more after half of the layers were removed. Cut and masked are compared in float64, on the "
        "example, another batch and image size; the cut network is emitted and reloaded without fxprune. The shares "
        "are those of output channels, and of MACs, that can go. Command: `python -m benchmarks.zoo.run --what "
        "channels`.",
        table(lines, _HEADERS_OF_CHANNELS),
    ]


def _cells_of_channels(rows: list[Record]) -> list[Any]:
    good = [row for row in rows if row["status"] == "ok"]
    counts = [sum(row["status"] == status for row in rows) for status in ("ok", "declined", "failed", "different")]
    compared = ("difference", "other_batch", "other_size", "difference_with_layers")
    found = [row[name] for row in good for name in compared if not isinstance(row[name], str)]
    shares = [median(row["free_outputs"] / max(row["outputs"], 1) for row in good) if good else None]
    shares += [median(row["macs_share"] for row in good) if good else None]
    seconds = median(row["seconds"]["total"] for row in good) if good else None
    return [
        *(len(rows), *counts),
        _formatted(max(found, default=None), ".1g"),
        *(_formatted(share, ".0%") for share in shares),
        _formatted(seconds, ".0f"),
    ]
