"""Emitted folders that somebody else wrote: with true hashes, whatever they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxprune.emission.seal import GRAPH, sealed


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda data: None) -> None:
    """Change what graph.json in ``folder`` says, and seal the folder anew."""
    data = json.loads((folder / GRAPH).read_text())
    data.pop("sha256", None)
    change(data)
    (folder / GRAPH).write_text(json.dumps(sealed(data, folder)))
