"""What one process of the zoo writes down about its model."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo_models import kind
from zoo_worker import CleanProcess

MEMORY = 16 << 30
"""Bytes of address space; more than that is an error of the model's own process, before the machine runs out."""


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


def fill_row(run: Callable[[str, Row, CleanProcess], None], clean: CleanProcess, spec: str, path: str) -> None:
    """Run the model ``spec`` and write its row to ``path``.

    ``run`` fills the row; an exception that it raises is the row's error, and may name the row's status.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row = Row(spec, Path(path))
    start = time.perf_counter()
    try:
        run(spec, row, clean)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        row["error"] = f"{type(error).__name__}: {lines[0]}"[:400]
    finally:
        row["seconds"]["total"] = round(time.perf_counter() - start, 2)
        row.save()
