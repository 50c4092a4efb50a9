"""Files that a kill or a full disk at any moment cannot leave half written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; at the end it is moved over ``path``, after an error it is removed."""
    unfinished = path.with_name(path.name + ".new")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write ``content`` as JSON, atomically."""
    write_text(path, json.dumps(content, indent=indent) + "\n")
