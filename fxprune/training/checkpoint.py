"""Checkpoints that a kill at any moment cannot damage: written beside the old one, then moved over it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from fxprune.errors import LoadError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically; the old file survives a full disk or a kill."""
    unfinished = path.with_name(path.name + ".new")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise LoadError(f"cannot write checkpoint {path}: {error}; the last one is still there") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; never executes code.

    Raises LoadError if the file is damaged or no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise LoadError(f"checkpoint {path} is damaged or no checkpoint: {_first_line(error)}") from error
    if not isinstance(state, dict):
        raise LoadError(f"checkpoint {path} is no checkpoint: it holds a {type(state).__name__}")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
