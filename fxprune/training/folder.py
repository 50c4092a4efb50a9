"""The folder of a run: one process at a time writes to it, and it holds one run, which may be gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fxprune.choosing.targets import Targets
from fxprune.errors import LoadError
from fxprune.files import cannot_write, make_folder, remove_unfinished, write_json
from fxprune.run_record import PARTITION, PLAN, REPORT, RUN, SEARCHED, WIDTHS, read_json
from fxprune.training.goal import Goal
from fxprune.training.settings import Settings

_LOCK = ".lock"


@contextmanager
def open_folder(out: Path, run: Mapping[str, Any]) -> Iterator[None]:
    """Make ``out`` the folder of this run, or check that it already is; inside, no other process can.

    A run that is refused before it trained anything leaves nothing behind.
    Raises LoadError if it holds anything else: another run, a finished one, or files of the user's; or if another
    process is at it.
    """
    if out.exists() and not out.is_dir():
        raise LoadError(f"{out} is a file; give another folder with --out")
    is_new = not out.exists()
    make_folder(out)
    lock = _locked(out)
    try:
        _prepare(out, run)
        try:
            yield
        except BaseException:
            if {path.name for path in out.iterdir()} <= {RUN, _LOCK}:
                (out / RUN).unlink(missing_ok=True)
            raise
    finally:
        (out / _LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new and not any(out.iterdir()):
            out.rmdir()


def is_finished(out: Path, run: Mapping[str, Any]) -> bool:
    """Say whether ``out`` holds this very run, and it is finished; raises LoadError if its record is damaged."""
    record = out / RUN
    return (out / REPORT).is_file() and record.is_file() and not _changes(out, record, run)


def _locked(out: Path) -> FileLock:
    """Return the lock of ``out``, held; raises LoadError if another process holds it."""
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise LoadError(
            f"another process is at work in {out}; wait for it, or give another folder with --out"
        ) from error
    except OSError as error:
        raise cannot_write(out / _LOCK, error) from error
    return lock


def _prepare(out: Path, run: Mapping[str, Any]) -> None:
    """Write down how this run was started, or hold it to how it was."""
    remove_unfinished(out)
    record = out / RUN
    if record.is_file():
        if (out / REPORT).is_file():
            raise LoadError(f"{out} holds a finished run, with other options; give another folder with --out")
        _go_on(out, record, run)
    elif any(path.name != _LOCK for path in out.iterdir()):
        raise LoadError(f"{out} is not empty; give another folder with --out")
    else:
        write_json(record, dict(run))


def _changes(out: Path, record: Path, run: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is another than when the run of ``record`` began: what was, and what is wanted now."""
    wanted = json.loads(json.dumps(run))
    try:
        known = read_json(record) or {}
    except LoadError as error:
        raise LoadError(f"{error}; give another folder with --out") from error
    newer = {key: value for key, value in (Settings().shared() | {"norms": Goal.norms}).items() if key in wanted}
    known = {**newer, **known}  # it may be older than some settings
    pairs = {key: (known.get(key), wanted.get(key)) for key in {**known, **wanted}}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def _go_on(out: Path, record: Path, run: Mapping[str, Any]) -> None:
    """Raise LoadError unless the unfinished run that ``record`` tells of is the one that is wanted."""
    changed = _changes(out, record, run)
    if (
        changed
        and not any(out.glob("*.pt"))
        and not any((out / name).exists() for name in (PLAN, SEARCHED, PARTITION))
    ):
        write_json(record, dict(run))  # nothing was trained or chosen yet: nothing is lost by starting anew
    elif changed and _is_of_widths(changed, run) and not (out / WIDTHS).exists():
        write_json(record, dict(run))  # what was trained goes on, and is what widths will be chosen by
    elif changed:
        key, (known, wanted) = next(iter(changed.items()))
        if key.endswith("sha256"):
            raise LoadError(
                f"{out} holds an unfinished run, and a file of weights has changed since it began; "
                "put the old one back to go on, or give another --out"
            )
        raise LoadError(
            f"{out} holds an unfinished run with {key} {known}, not {wanted}; "
            "use the same options to go on, or another --out"
        )


def _is_of_widths(changed: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Say whether what is ``changed`` only says which widths are chosen, once gates of attention are trained."""
    return run.get("method") == "ucp" and changed.keys() <= {"alpha", *Targets().options()}
