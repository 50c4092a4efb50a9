"""What a search by held-out accuracy has evaluated, in a file: after a kill it goes on from there.

{"step_constraint": {"3f0c...": [[[4], 0.91], [[4, 2], 0.9]]}}      of each search: numbers of channels, top-1
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fxprune.errors import LoadError
from fxprune.files import write_json
from fxprune.pruning.untrained.step_network import Numbers


class State:
    """What was evaluated, by search and by numbers of channels; in a file, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._searches: dict[str, list[Any]] = {}
        self._of: dict[Numbers, float] = {}
        self._rows: list[Any] = []
        if path is not None and path.exists():
            try:
                self._searches = json.loads(path.read_text(encoding="utf-8"))["step_constraint"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise LoadError(f"{path} is no state of a search: remove it, or name another file") from error

    def open(self, search: Any) -> dict[Numbers, float]:
        """Return what was evaluated in a search, which is told by all that it depends on."""
        key = hashlib.sha256(json.dumps(search).encode()).hexdigest()[:16]
        self._rows = self._searches.setdefault(key, [])
        self._of = {tuple(numbers): float(top1) for numbers, top1 in self._rows}
        return self._of

    def note(self, numbers: Numbers, top1: float) -> None:
        """Keep one."""
        self._of[numbers] = top1
        self._rows.append([list(numbers), top1])
        if self._path is not None:
            write_json(self._path, {"step_constraint": self._searches}, indent=0)
