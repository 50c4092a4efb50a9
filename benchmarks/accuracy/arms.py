"""Arms that are trained once a seed: each has a folder with report.json, and a record is of those that are done."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from fxprune.files import write_json

Report = dict[str, Any]
Reports = dict[int, Report]
"""Of an arm, by seed."""
_REPORT = "report.json"


def run(arm: str, folder: Path, seed: int, train: Callable[[Path], Report]) -> None:
    """Train one arm by ``train``, which is given its folder, unless it is done."""
    out = folder / arm
    if (out / _REPORT).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    report = train(out)
    write_json(out / _REPORT, report)
    print(f"{arm}: {report['top1_choosing']:.2%} held out, {report['top1']:.2%} of the test images", flush=True)


def read(folder: Path) -> Report:
    """Return the report in a folder."""
    found: Report = json.loads((folder / _REPORT).read_text())
    return found


def seeds_in(runs: Path, name: str) -> dict[int, Path]:
    """Return the folders of the seeds that were run; ends the program if there are none."""
    found = {int(one.name.rpartition("seed")[2]): one for one in sorted(runs.glob(f"{name}-seed*"))}
    if not found:
        raise SystemExit(f"no seed of {name} was run in {runs}")
    return found


def done_in(seeds: Mapping[int, Path], arms: Collection[str]) -> dict[str, Reports]:
    """Return the reports of the arms that any seed has done."""
    found = {
        arm: {seed: read(folder / arm) for seed, folder in seeds.items() if (folder / arm / _REPORT).exists()}
        for arm in arms
    }
    return {arm: reports for arm, reports in found.items() if reports}


def require_alike(settings: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that seeds share; ends the program if they were run with different ones."""
    alike = [{name: value for name, value in one.items() if name != "seed"} for one in settings.values()]
    if any(one != alike[0] for one in alike):
        raise SystemExit(f"the seeds {', '.join(map(str, settings))} were run with different settings: remove some")
    return alike[0]
