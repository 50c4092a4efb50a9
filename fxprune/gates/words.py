"""Gates in sentences."""

from __future__ import annotations

from collections.abc import Mapping

_PLURALS = {"branch": "branches"}


def told_by_kind(counts: Mapping[str, int]) -> str:
    """Return in words how many there are of each kind: "13 convs and 5 branches"."""
    kinds = sorted(counts, reverse=True)  # convs before branches
    told = [f"{counts[kind]} {kind if counts[kind] == 1 else _PLURALS.get(kind, f'{kind}s')}" for kind in kinds]
    return " and ".join(told) or "no layers"
