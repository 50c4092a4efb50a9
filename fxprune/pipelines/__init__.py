"""Passes in a row, and by name; and what gets gates, told without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fxprune.errors import FxpruneValueError, did_you_mean

Layers = Literal["all", "convs", "branches"]
"""The old way to say which layers get gates: "all" are convs and branches."""
KIND_OF = {"convs": "conv", "branches": "branch", "channels": "channels"}
"""Of each word for what may go the kind of its gates, and of its sites in plans."""
SITES = tuple(KIND_OF)
"""What may go: single convs, whole residual branches, channels."""
SITES_OF = {kind: word for word, kind in KIND_OF.items()}
"""Of each kind its word."""
What = str | Sequence[str]
"""Some of :data:`SITES`, as ``"convs,branches"`` or a sequence of these; "all" are the three."""
LAYERS = ("convs", "branches")


def sites_named(
    what: What | None = None, layers: Layers | None = None, usual: tuple[str, ...] = LAYERS
) -> tuple[str, ...]:
    """Return which of :data:`SITES` are meant, in that order; ``usual`` where nothing says.

    Raises FxpruneValueError for another word, or if both the new and the old name say something.
    """
    if what is not None and layers is not None:
        raise FxpruneValueError("layers is the old name of what: give one of them")
    if what is None:
        if layers is None:
            return usual
        return LAYERS if layers == "all" else (str(layers),)
    words = [one.strip() for one in what.split(",")] if isinstance(what, str) else [*what]
    for one in words:
        if one not in (*SITES, "all"):
            raise FxpruneValueError(
                f"what names some of {', '.join(SITES)}, or all; got {one!r}{did_you_mean(one, SITES)}"
            )
    if not words:
        raise FxpruneValueError(f"what names some of {', '.join(SITES)}, or all; got nothing")
    return SITES if "all" in words else tuple(one for one in SITES if one in words)
