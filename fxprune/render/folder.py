"""The diff that a run leaves in its folder: diff.txt and diff.html to read, diff.json for ``fxprune diff FOLDER``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import fx

from fxprune.diffing.diff import diff
from fxprune.diffing.graph_diff import GraphDiff
from fxprune.errors import LoadError, first_line
from fxprune.files import write_text
from fxprune.render.html import page
from fxprune.render.measured import measured_in
from fxprune.rewriting.contract import PassResult
from fxprune.run_record import REPORT, RUN, read_json, run_title

_TEXT, _DATA, _PAGE = "diff.txt", "diff.json", "diff.html"
_NOTHING: Mapping[str, Any] = {}


def write_diff(
    folder: Path,
    before: fx.GraphModule,
    after: fx.GraphModule,
    results: Sequence[PassResult],
    about: Mapping[str, Any] = _NOTHING,
) -> GraphDiff:
    """Write to ``folder``, which exists, what ``results`` made of ``before``; return the diff.

    ``about`` is the report of the run, or what is known of it: its "model" and "data", and what was measured.
    """
    found = diff(before, after, results=results)
    write_text(folder / _TEXT, f"{found}\n")
    known = {key: about[key] for key in ("model", "data") if about.get(key)}
    write_text(folder / _DATA, json.dumps({**found.to_json(), **known}) + "\n")
    stages = [(step.name, step.diff) for result in results for step in getattr(result, "steps", ())]
    title = run_title(about) or type(after).__name__
    write_text(folder / _PAGE, page(stages, found, title=title, measured=measured_in(about)))
    return found


def read_diff(path: Path) -> GraphDiff:
    """Read what :func:`write_diff` left in a folder, or such a file; raises LoadError if it is missing or damaged."""
    file = path / _DATA if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not path.exists():
            raise LoadError(f"there is no file or folder {path}") from error
        if (path / RUN).is_file():
            raise LoadError(
                f"the run in {path} is not finished: its diff is written at the end; fxprune report tells how it goes"
            ) from error
        raise LoadError(f"{path} holds no {_DATA}; give a second model to compare with") from error
    except (OSError, ValueError, RecursionError) as error:
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise LoadError(f"{file} is no diff, or cut short: {why}; two models are compared by naming both") from error
    try:
        return GraphDiff.from_json(data)
    except LoadError as error:
        raise LoadError(f"{file}: {error}") from error


def read_about(path: Path) -> dict[str, Any]:
    """Return what is known of the run whose diff :func:`read_diff` reads: its report, or else its model and data.

    Raises LoadError if the report is damaged.
    """
    file = path / _DATA if path.is_dir() else path
    return read_json(file.parent / REPORT) or read_json(file) or {}
