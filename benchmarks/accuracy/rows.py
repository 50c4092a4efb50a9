"""Files of rows, a line each: what names a row, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

_Row = TypeVar("_Row", bound=tuple[Any, ...])


def checkpoint_name(weights: Path, runs: Path) -> str:
    """Return what rows call a file of weights: its path in the folder of the runs, or else its name."""
    file, folder = weights.resolve(), runs.resolve()
    inside = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
    return str(inside.with_suffix(""))


def read_rows(file: Path, kind: type[_Row]) -> dict[_Row, dict[str, Any]]:
    """Return the rows of a file, by the NamedTuple that names each; none if there is none."""
    found: dict[_Row, dict[str, Any]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        content = json.loads(line)
        names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]  # of a NamedTuple
        found[kind(*(content.pop(name) for name in names))] = content
    return found


def require_settings(file: Path, rows: Mapping[Any, dict[str, Any]], settings: Mapping[str, Any]) -> None:
    """End the program if rows of ``file`` are of other settings."""
    if any(one["settings"] != settings for one in rows.values()):
        raise SystemExit(f"{file} has rows of other settings than {settings}: use the same, or other --runs")
