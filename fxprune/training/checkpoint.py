"""Checkpoints that a kill at any moment cannot damage: written beside the old one, then moved over it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from fxprune.errors import LoadError, first_line
from fxprune.files import save_with_torch

FORMAT = 4
"""Of what a checkpoint holds; one of another format is refused."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically; the old file survives a full disk or a kill."""
    try:
        save_with_torch(path, {"format": FORMAT, **state})
    except LoadError as error:
        kept = "; the last one is still there" if path.exists() else ""
        raise LoadError(f"{error}{kept}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; never executes code.

    Raises LoadError if the file is damaged, no checkpoint, or one of another version of fxprune.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise LoadError(f"checkpoint {path} is damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise LoadError(f"checkpoint {path} is no checkpoint: it holds a {type(state).__name__}")
    if state.get("format") != FORMAT:
        raise LoadError(
            f"checkpoint {path} has format {state.get('format')}, this fxprune writes {FORMAT}; "
            "finish the run with the version that began it, or start anew in another --out"
        )
    return state
