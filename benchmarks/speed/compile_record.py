"""What results/compile.json holds: networks, ways to compile them, and the seconds of every step, turn by turn."""

from __future__ import annotations

from typing import Any

CIFAR = ("resnet20", "resnet56", "resnet110", "resnet218", "resnet434", "resnet1202")
IMAGENET = ("resnet152", "efficientnet_v2_l", "densenet201", "convnext_large")
FLOOR, OURS, VERIFIED, PEER = "symbolic_trace", "fxprune", "fxprune, verified", "torch-pruning"
APART = ("diff", "emit")
"""Steps that are measured with fxprune's, and no part of compiling."""

Row = dict[str, Any]


def steps(row: Row, way: str, unit: str = "cpu") -> dict[str, list[float]]:
    """Return what each step of a way took, turn by turn; nothing if it failed."""
    found: dict[str, list[float]] = row["seconds"].get(f"{way}: {unit}", {})
    return found


def totals(row: Row, way: str) -> list[float]:
    """Return what compiling took in a way, turn by turn; an empty list if it failed."""
    parts = [values for step, values in steps(row, way).items() if step not in APART]
    return [sum(turn) for turn in zip(*parts, strict=True)]
