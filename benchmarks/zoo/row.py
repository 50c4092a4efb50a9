"""What one process of the zoo writes down about its model, and all that were written, read."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.zoo.models import kind


class Row(dict[str, Any]):
    """What is known of a model so far; on disk after every step, so that a crash or a kill leaves what was done."""

    def __init__(self, spec: str, path: Path) -> None:
        super().__init__(model=spec, kind=kind(spec), status="failed", step="start", error="", seconds={})
        self.path = path

    def save(self) -> None:
        """Write the row; ``peak_mb`` is this process's own."""
        self["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.path.write_text(json.dumps(self))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and name it in the row if it fails."""
        self["step"] = name
        self.save()
        start = time.perf_counter()
        try:
            yield
        finally:
            self["seconds"][name] = round(time.perf_counter() - start, 2)
            self.save()


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last row of every model; a line that a kill cut short is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["model"]] = row
    return rows
