"""What a run tells while it goes on: a line of metrics.jsonl, TensorBoard if it is there, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fxprune.files import append_line, write_text
from fxprune.run_record import read_rows

if TYPE_CHECKING:
    from accelerate import Accelerator


class Metrics:
    """Rows of numbers, appended to a file as JSON lines; each holds the optimizer step after which it was taken.

    "scales" holds the effective scales of the layers, by path, that are not what they were in the row before.
    "widths" holds the channels that are left of each group, likewise. "gone" holds the paths of those that went
    since, with a branch around them or by themselves. "saved_by" holds the shares of the costs that went with each
    kind.

    Args:
        path: the file; None keeps the rows in memory only.
        accelerator: whose trackers get the numbers too, and whose main process alone writes.
    """

    def __init__(self, path: Path | None, accelerator: Accelerator) -> None:
        self.path = path if accelerator.is_main_process else None
        self.rows: list[dict[str, Any]] = []
        self.scales: dict[str, float] = {}  # as the rows so far tell them
        self.widths: dict[str, int] = {}  # likewise
        self.gone: set[str] = set()  # likewise
        self.accelerator = accelerator
        self._name = "metrics" if path is None else path.stem

    def resume(self, step: int) -> None:
        """Keep the rows up to ``step``: those after it will come again."""
        if self.path is None or not self.path.exists():
            return
        self.rows = [row for row in read_rows(self.path)[0] if row["step"] <= step]
        for row in self.rows:
            self._note(row)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.rows.append(row)
        self._note(row)
        if self.path is not None:
            append_line(self.path, json.dumps(row))
        numbers = {name: value for name, value in _flat(row).items() if isinstance(value, (int, float))}
        told = {f"{self._name}/{name}": value for name, value in numbers.items() if name != "step"}
        self.accelerator.log(told, step=row["step"])

    def _note(self, row: Mapping[str, Any]) -> None:
        self.scales |= row.get("scales", {})
        self.widths |= row.get("widths", {})
        self.gone.update(row.get("gone", ()))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a row by names with slashes: "saved_by/channels/macs"."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        inner = {f"{name}/{key}": one for key, one in _flat(value).items()} if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else inner
    return found


def epochs(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a report tells of each epoch: "seconds" is its time, over restarts too, "device" where it ended."""
    left = ("layers_left", "channels_left", "macs_left", "params_left")
    names = ("epoch", "loss", "top1", *left, "saved_by", "seconds", "device")
    return [{name: row[name] for name in names if name in row} for row in rows if "epoch" in row]


def progress_bar(shown: bool) -> Progress:
    """Return the bar that training shows; ``note`` is its field for loss, accuracy and what is left.

    Where the terminal is narrow the note is cut off, and not the time that is left.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        expand=True,
        transient=True,
        disable=not shown,
    )
