"""A training run, finished or not, read back from its folder: what it did step by step, and what came out."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fxprune.errors import FxpruneWarning, LoadError, first_line
from fxprune.run_results import RESULTS, results_text, stages_text, widths_text

RUN, REPORT, PLAN, SEARCHED = "run.json", "report.json", "plan.json", "search.json"
WIDTHS, PARTITION, CLOCKED = "widths.json", "partition.json", "clock.json"
METRICS, FINETUNING, UNPRUNED, ATTENTION = "metrics.jsonl", "finetune.jsonl", "unpruned.jsonl", "attention.jsonl"
"""Files in the folder of a run: how it was started, what came out, what was closed or searched, which blocks were
chosen, what the clock said while --no-train chose, and what was measured."""

NO_SCALES = "scales were not recorded: nothing shrinks in this run, or an earlier version wrote it"
_MAX_EPOCHS = 20  # in the printed table


@dataclass(frozen=True)
class RunRecord:
    """What the folder of ``fxprune prune`` or ``fxprune demo`` tells; printing it shows tables.

    Attributes:
        folder: where it was read from.
        settings: what the run was started with (run.json); empty if that is not there.
        rows: the measurements while layers shrank (metrics.jsonl), in order of their optimizer step.
        finetuning: those of the training after the removal (finetune.jsonl), their steps counted from 0 again.
        report: report.json; None while the run is not finished.
    """

    folder: Path
    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    finetuning: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any] | None

    def series(self, name: str, *, epochs: bool = False) -> tuple[list[int], list[float]]:
        """Return the steps at which ``name`` was measured while layers shrank, and its values.

        With ``epochs`` only of the rows that end an epoch: their loss is its mean, that of others of one step.
        """
        return _series(self.rows, name, epochs)

    def finetuning_series(self, name: str, *, epochs: bool = False) -> tuple[list[int], list[float]]:
        """Return the same of fine-tuning; its steps follow those before."""
        last = self.rows[-1]["step"] if self.rows else 0
        steps, values = _series(self.finetuning, name, epochs)
        return [last + step for step in steps], values

    @property
    def steps_per_epoch(self) -> float | None:
        """How many steps an epoch takes; None if none is finished."""
        ended = (row["step"] / row["epoch"] for row in self.rows if _is_number(row.get("epoch")) and row["epoch"] > 0)
        return next((each for each in ended if each > 0), None)

    @property
    def gone_how(self) -> str:
        """How layers went whose own scale is not 0: a run of fixed strength may cut some at its end."""
        known = {**self.settings, **(self.report or {}).get("settings", {})}
        return "with a branch" if known.get("strength") is None else "with a branch, or cut at the end"

    def gone_without_zero(self) -> dict[str, int | None]:
        """Return the layers that are gone though their own scale is not 0, and after which step each was.

        They lie in a branch that reached zero; or a run of fixed strength cut them at its end. The step is None where
        the run does not tell: in records from before this was written, and for what was cut.
        """
        zero = {path for path, values in self.scales()[1].items() if values[-1] == 0}
        gone: dict[str, int | None] = dict.fromkeys(_paths((self.report or {}).get("layers_removed")))
        for row in reversed(self.rows):
            gone |= dict.fromkeys(_paths(row.get("gone")), row["step"])
        return {path: step for path, step in gone.items() if path not in zero}

    def scales(self) -> tuple[list[int], dict[str, list[float]]]:
        """Return the steps at which scales were measured, and each layer's effective scale at each of them.

        Rows hold only what changed since the row before. Both are empty for a run that did not record scales.
        """
        return self._by_path("scales")

    def widths(self) -> tuple[list[int], dict[str, list[float]]]:
        """Return the same of how many channels of each group are left."""
        return self._by_path("widths")

    def saved_by(self, cost: str = "macs") -> tuple[list[int], dict[str, list[float]]]:
        """Return the steps, and by kind ("convs", "branches", "channels") the share of a cost that went with it."""
        rows = [row for row in self.rows if isinstance(row.get("saved_by"), dict)]
        known = [{kind: one[cost] for kind, one in row["saved_by"].items() if _has_number(one, cost)} for row in rows]
        kinds = dict.fromkeys(kind for one in known for kind in one)
        return [row["step"] for row in rows], {kind: [one.get(kind, math.nan) for one in known] for kind in kinds}

    def _by_path(self, name: str) -> tuple[list[int], dict[str, list[float]]]:
        rows = [row for row in self.rows if isinstance(row.get("scales"), dict)]
        steps: list[int] = []
        found: dict[str, list[float]] = {}
        for row in rows:
            held = row.get(name)
            for path, value in held.items() if isinstance(held, dict) else ():
                if _is_number(value):
                    found.setdefault(str(path), [math.nan] * len(steps)).append(float(value))
            steps.append(row["step"])
            for values in found.values():
                values.extend(values[-1:] * (len(steps) - len(values)))
        return steps, found

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, with one entry an epoch, and of the scales the last ones."""
        epochs, finetuning = (
            [
                {key: value for key, value in row.items() if key not in ("scales", "widths")}
                for row in rows
                if "epoch" in row
            ]
            for rows in (self.rows, self.finetuning)
        )
        return {
            "folder": str(self.folder),
            "finished": self.report is not None,
            "settings": dict(self.settings),
            "epochs": epochs,
            "finetuning": finetuning,
            "scales": {path: values[-1] for path, values in self.scales()[1].items()},
            "report": self.report and dict(self.report),
        }

    def __str__(self) -> str:
        if self.report is not None and "stages" in self.report:  # nothing was trained
            return "\n\n".join([self.headline, stages_text(self.report), results_text(self.report)])
        if self.report is not None and "blocks" in self.report:  # a head was split, and maybe trained
            trained = [self._epochs()] if self.rows else []
            blocks = "\n".join(_paths(self.report["blocks"]))
            return "\n\n".join([self.headline, *trained, blocks, results_text(self.report)])
        parts = [self.headline, self._epochs()]
        if self.report is not None:
            parts.append(results_text(self.report))
        steps, scales = self.scales()
        if self.report is not None and "ucp" in self.report:
            parts.append(widths_text(self.report))
        elif not steps:
            parts.append(NO_SCALES)
        else:
            zero = sum(values[-1] == 0 for values in scales.values())
            gone = len((self.report or {}).get("layers_removed", ()))
            within = "; other layers that are gone lie in branches whose scale is" if gone > zero else ""
            means = ", of channels the means of groups," if self.series("channels_left")[0] else ""
            parts.append(f"{zero} of {len(scales)} scales{means} are 0 at step {steps[-1]}{within}")
        return "\n\n".join(part for part in parts if part)

    @property
    def headline(self) -> str:
        """What was trained on what, and whether it is finished."""
        known = self.report or self.settings
        what = ", ".join(f"{key} {known[key]}" for key in ("model", "data") if known.get(key))
        state = "finished" if self.report is not None else "not finished"
        last = f" at step {self.rows[-1]['step']}" if self.rows and self.report is None else ""
        return f"{self.folder}: {f'{what}, ' if what else ''}{state}{last}"

    def _epochs(self) -> str:
        rows = [row for row in self.rows if "epoch" in row]
        if not rows:
            return "no epoch is finished"
        every = -(-len(rows) // _MAX_EPOCHS)
        shown = [row for index, row in enumerate(rows, start=1) if index % every == 0 or row is rows[-1]]
        shown += [row for row in self.finetuning if "epoch" in row][-1:]
        has_channels = any("channels_left" in row for row in shown)
        columns = {title: one for title, one in _COLUMNS.items() if has_channels or title != "channels"}
        table = [
            [
                f"{row['epoch']}{'' if row in rows else ' fine-tuning'}",
                *(_formatted(row.get(name), form) for name, form in columns.values()),
            ]
            for row in shown
        ]
        return tabulate(
            table, headers=["epoch", *columns], colalign=("left", *["right"] * len(columns)), disable_numparse=True
        )


_COLUMNS = {
    "step": ("step", ","),
    "loss": ("loss", ".3f"),
    "top-1": ("top1", ".2%"),
    "layers": ("layers_left", ","),
    "channels": ("channels_left", ","),
    "MACs": ("macs_left", ".1%"),
    "parameters": ("params_left", ".1%"),
    "seconds": ("seconds", ".1f"),
}


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a file of measurements in order of their steps, and how many of its lines are damaged.

    A kill can cut the last one short. There are none where there is no file.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return sorted(rows, key=lambda row: int(row["step"])), len(lines) - len(rows)


def read_run(folder: Path) -> RunRecord:
    """Read the folder of a run, finished or not.

    Lines of measurements that are damaged, as a kill can leave one, are left out with a warning.
    Raises LoadError if ``folder`` is not that of a run, or one of its JSON files is damaged.
    """
    if not any((folder / name).is_file() for name in (METRICS, ATTENTION, RUN, REPORT)):
        kind = "is not the folder of a run" if folder.is_dir() else "is not a folder"
        raise LoadError(f"{folder} {kind}: give the one that fxprune prune or fxprune demo writes to")
    report = read_json(folder / REPORT)
    if report is not None and not all(_is_number(report.get(k)) for b, a, _ in RESULTS.values() for k in (b, a)):
        raise LoadError(f"{folder / REPORT} is not the report of a run")
    first = METRICS if (folder / METRICS).is_file() else ATTENTION  # before the widths are known
    files = (folder / first, folder / FINETUNING)
    measured, finetuning = map(read_rows, files)
    for path, (_, damaged) in zip(files, (measured, finetuning), strict=True):
        if damaged:
            warnings.warn(f"{path}: damaged lines are left out ({damaged})", FxpruneWarning, stacklevel=2)
    settings = read_json(folder / RUN) or {}
    return RunRecord(folder, settings, tuple(measured[0]), tuple(finetuning[0]), report)


def run_title(known: Mapping[str, Any]) -> str:
    """Return "MODEL on DATA" of what a run was started with, or what is known of that; "" if nothing is."""
    return " on ".join(str(known[key]) for key in ("model", "data") if known.get(key))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file of a run; None if there is no such file. Raises LoadError if it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged, or cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} is damaged: it holds no object")
    return content


def _series(rows: Sequence[Mapping[str, Any]], name: str, epochs: bool) -> tuple[list[int], list[float]]:
    counted = (row for row in rows if "epoch" in row or not epochs)
    measured = [(row["step"], float(row[name])) for row in counted if _is_number(row.get(name))]
    return [step for step, _ in measured], [value for _, value in measured]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_number(value: Any, name: str) -> bool:
    return isinstance(value, dict) and _is_number(value.get(name))


def _formatted(value: Any, form: str) -> str:
    return format(value, form) if _is_number(value) else ""


def _paths(value: Any) -> list[str]:
    return [str(path) for path in value] if isinstance(value, list) else []
