"""Files that a kill or a full disk at any moment cannot leave half written.

New files are written in a folder of their own, which nobody else can name, beside those that they will replace; when
all are whole, they are moved over them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fxprune.errors import LoadError, first_line

_UNFINISHED = ".fxprune-"
_DAY = 24 * 60 * 60.0


@contextmanager
def replacing_all(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder to write to; at the end, what is in it replaces the files ``names`` of ``folder``.

    One after the other, in that order; a file that was not written is removed from ``folder``. After an error all
    stays as it was. Raises LoadError where the disk is full, or nothing may be written there.
    """
    unfinished = None
    try:
        remove_unfinished(folder, older_than=_DAY)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
        yield unfinished
        for file in unfinished.iterdir():
            _flush(file)
        for name in names:
            written, place = unfinished / name, folder / name
            os.replace(written, place) if written.exists() else place.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder / names[0] if len(names) == 1 else folder, error) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; at the end the file there is moved over ``path``, after an error it is removed."""
    with replacing_all(path.parent, (path.name,)) as unfinished:
        yield unfinished / path.name


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def remove_unfinished(folder: Path, *, older_than: float = 0.0) -> None:
    """Remove what writers that were killed left in ``folder``: all of it, or what is ``older_than`` so many seconds.

    Another process may be writing what is young.
    """
    for left in folder.glob(f"{_UNFINISHED}*"):
        if not left.is_symlink() and left.is_dir() and time.time() - left.stat().st_mtime >= older_than:
            shutil.rmtree(left, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> LoadError:
    """Return what to raise where ``error`` kept ``path`` from being written."""
    return LoadError(f"cannot write {path}: {error.strerror or error}")


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and those around it, where they are not there; raises LoadError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically; raises LoadError if it cannot be written."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def save_with_torch(path: Path, content: Any) -> None:
    """Write ``content`` with torch.save, atomically; raises LoadError if it cannot be written."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's zip writer hides what the disk says
            raise LoadError(f"cannot write {path}: is the disk full? ({first_line(error)})") from error


def append_line(path: Path, line: str) -> None:
    """Append ``line`` to a file of lines; raises LoadError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def read_json_of(path: str | Path, kind: str) -> Any:
    """Return what a JSON file holds; raises LoadError if it cannot be read, or is no ``kind``, "blend" say."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # of another encoding too
        raise LoadError(f"{path} is no {kind}: {first_line(error)}") from error


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write ``content`` as JSON, atomically; raises LoadError if it cannot be written."""
    write_text(path, json.dumps(content, indent=indent) + "\n")
