"""The zoo's rows as results/zoo.json and as the tables in README.md."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from readme import replace_part
from tabulate import tabulate

Row = dict[str, Any]
GROUPS = {
    "classification": "torchvision, classification CNNs",
    "transformer": "torchvision, transformers",
    "segmentation": "torchvision, segmentation",
    "video": "torchvision, video",
    "quantization": "torchvision, quantizable (float)",
    "detection": "torchvision, detection",
    "optical_flow": "torchvision, optical flow",
    "timm": "timm, one CNN a family",
}
SHARES = (
    "resnet50",
    "resnet152",
    "regnet_y_8gf",
    "efficientnet_b0",
    "mobilenet_v2",
    "convnext_tiny",
    "resnext50_32x4d",
)
_START, _END = "<!-- zoo: written by zoo.py -->", "<!-- end of zoo -->"


def summarize(rows: dict[str, list[Row]], folder: Path) -> None:
    """Write the summary of the rows of fxprune and of Torch-Pruning."""
    ours, peers = rows["fxprune"], rows["torch-pruning"]
    result = {
        "command": "python benchmarks/zoo.py; python benchmarks/zoo.py --peer torch-pruning",
        "commits": sorted({row["commit"] for row in ours}),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "torch-pruning")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads a model": 1},
        "groups": {group: _group(group, ours, peers) for group in GROUPS if any(r["kind"] == group for r in ours)},
    }
    (folder / "results" / "zoo.json").write_text(json.dumps(result, indent=1) + "\n")  # the rows lie beside it
    tables = _tables(result, ours)
    replace_part(folder / "README.md", _START, _END, tables)
    print(tables)


def _group(group: str, ours: list[Row], peers: list[Row]) -> dict[str, Any]:
    mine = [row for row in ours if row["kind"] == group]
    good = [row for row in mine if row["status"] == "ok"]
    theirs = Counter(row["status"] for row in peers if row["kind"] == group)
    return {
        "models": len(mine),
        **{
            status: sum(row["status"] == status for row in mine)
            for status in ("ok", "declined", "failed", "different")
        },
        "every_conv_visible": sum(
            row.get("hidden_convs") == 0 and row["visible_convs"] >= row["conv_modules"] for row in good
        ),
        "not_emitted": [row["model"] for row in good if "not_emitted" in row],
        "tiers": dict(Counter(row["tier"] for row in mine if "tier" in row)),
        "largest_difference": max((difference for row in good for difference in _differences(row)), default=None),
        "other_size": dict(Counter(_verdict(row["other_size"]) for row in good)),
        "without_effect": [row["model"] for row in good if row["scaled_to_zero"] and row["effect"] < 1e-6],
        "median_removable_share": median(row["removable_share"] for row in good) if good else None,
        "needless_nodes": sum(sum(row["needless"].values()) for row in good),
        "median_seconds": median(row["seconds"]["total"] for row in good) if good else None,
        "largest_peak_mb": max((row["peak_mb"] for row in mine if "peak_mb" in row), default=None),
        "torch_pruning": dict(theirs),
    }


def _differences(row: Row) -> list[float]:
    """Return the differences at the traced shape, and where the model runs there at another batch and image size."""
    found = (row["difference"], row["other_batch"], row["other_size"])
    return [one for one in found if not isinstance(one, str)]


def _verdict(found: float | str) -> str:
    return found if isinstance(found, str) else "equal"


def _tables(result: dict[str, Any], ours: list[Row]) -> str:
    groups = result["groups"]
    table = [
        [
            GROUPS[group],
            found["models"],
            found["ok"],
            found["every_conv_visible"],
            len(found["not_emitted"]),
            found["declined"],
            found["failed"],
            found["different"],
            "" if found["largest_difference"] is None else f"{found['largest_difference']:.1g}",
            "" if found["median_removable_share"] is None else f"{found['median_removable_share']:.0%}",
            found["needless_nodes"],
            "" if found["median_seconds"] is None else f"{found['median_seconds']:.0f}",
        ]
        for group, found in groups.items()
    ]
    headers = [
        "",
        "models",
        "end to end",
        "every conv visible",
        "not emitted",
        "declined",
        "failed",
        "silently different",
    ]
    headers += ["largest difference", "removable MACs (median)", "needless nodes left", "seconds (median)"]
    by_name = {row["model"]: row for row in ours}
    shares = [
        [name, f"{by_name[f'torchvision:{name}']['removable_share']:.1%}"]
        for name in SHARES
        if "removable_share" in by_name.get(f"torchvision:{name}", {})
    ]
    statuses = ("ok", "wrong", "not comparable", "prunes nothing", "raises", "failed")
    peer = [
        [GROUPS[group], sum(found["torch_pruning"].values()), *(found["torch_pruning"].get(s, 0) for s in statuses)]
        for group, found in groups.items()
        if found["torch_pruning"]
    ]
    parts = [
        "## The zoo",
        "Every model goes through tracing, insertion of both kinds, random scales with half of them zero, removal, "
        "fusing, folding, simplifying (compared in float64), another batch and image size, and emission, reloaded "
        "without fxprune. A model is *silently different* if two graphs that must agree do not and nothing raised; "
        "*not emitted* if a part of it stayed opaque, so that there is no source to write. "
        "Command: `python benchmarks/zoo.py`; one row a model in [zoo/](results/zoo).",
        tabulate(table, headers=headers, tablefmt="github", disable_numparse=True),
    ]
    if shares:
        parts += [
            "MACs that are gone once every removable layer and branch is, for images of 64 x 64 (for larger ones the "
            "classifier and the like weigh less):",
            tabulate(shares, headers=["torchvision", "of the MACs"], tablefmt="github", disable_numparse=True),
        ]
    if peer:
        parts += [
            f"Torch-Pruning {result['versions']['torch-pruning']}, out of the box, half of the channels, the "
            "classifier left alone (`--peer torch-pruning`). *Right*: the pruned model computes what the original "
            "computes once the weights that make the removed channels are zero. *Wrong*: it cannot run; or it lost "
            "inputs that carry data of channels that it kept; or all that it lost was zero, and yet its "
            "output is another. *Not comparable*: it runs, but something else than weights mixes channels (layer or "
            "group norm, softmax, a mean over channels), or a zeroed channel does not arrive as zero.",
            tabulate(
                peer,
                headers=[
                    "",
                    "models",
                    "right",
                    "wrong",
                    "runs, not comparable",
                    "prunes nothing",
                    "raises",
                    "crash, time-out",
                ],
                tablefmt="github",
            ),
        ]
    return "\n\n".join(parts)
