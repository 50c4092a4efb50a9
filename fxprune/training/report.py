"""What a run writes when it is done: the pruned network, what was changed, and the report."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx

import fxprune
from fxprune.costs.activation_memory import peak_activation_bytes
from fxprune.costs.latency.measured_latency import compare_latency
from fxprune.costs.macs import total_macs, total_params
from fxprune.emission.emit import emit, source_obstacle
from fxprune.emission.formats import SOURCE_ONLY, Exports
from fxprune.emission.strip import savable
from fxprune.errors import EmitError, FxpruneWarning
from fxprune.files import save_with_torch, write_json
from fxprune.ir.processes import by_the_first
from fxprune.ir.trace_notes import opaque_modules
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.timed_choice import Timed
from fxprune.render.folder import write_diff
from fxprune.run_record import REPORT
from fxprune.training.checks import PICKLED
from fxprune.training.data import ImageData
from fxprune.training.goal import Goal
from fxprune.training.preprocessing import CONFIG
from fxprune.training.settings import Settings

REPORT_SCHEMA = 6
Point = tuple[float, float, float]
"""What was predicted of a network, and what was measured, in milliseconds, and the spread of the repeats."""


class Clocked(NamedTuple):
    """What the clock of a run said: the milliseconds that were asked for, None without a model, and its points."""

    limit: float | None = None
    points: Sequence[Point] = ()

    @classmethod
    def of(cls, timed: Timed | None) -> Clocked:
        """Return what the clock said on the way to a choice; None is one without a clock."""
        if timed is None:
            return cls()
        return cls(timed.limit, [(one.predicted, one.measured, one.spread) for one in timed.tries])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"target_ms": self.limit, "points": [list(one) for one in self.points]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Clocked:
        """Return what :meth:`to_json` told."""
        return cls(data["target_ms"], [(float(a), float(b), float(c)) for a, b, c in data["points"]])


def compared(
    before: fx.GraphModule,
    after: fx.GraphModule,
    results: Sequence[PipelineResult],
    data: ImageData,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Return what the report of any run tells of what came out, beside what went in: timed on ``device``."""
    prepared_by = data.preprocessing
    return {
        **_costs(before.cpu(), after.cpu()),
        "opaque": [one.path for one in opaque_modules(before)],
        "preprocessing": prepared_by and prepared_by.to_config(),
        "max_relative_difference": max(one.max_relative or 0.0 for one in results),
        "latency_ms": _latencies(before.to(device), after.to(device)),
    }


def _costs(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, int]:
    """Return what both cost; activations are those of the networks that they make for inference."""
    activations = [peak_activation_bytes(_for_inference(one)) for one in (before, after)]
    return {
        "macs_before": total_macs(before),
        "macs_after": total_macs(after),
        "params_before": total_params(before),
        "params_after": total_params(after),
        "activation_bytes_before": activations[0],
        "activation_bytes_after": activations[1],
    }


def _for_inference(graph_module: fx.GraphModule) -> fx.GraphModule:
    return Pipeline(AFTER_TRAINING, verify=False)(graph_module).graph_module


def _latencies(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, dict[str, float]]:
    """Return median milliseconds at batch 1 and 64 of both, with their norms folded, to be fair."""
    ways = {"before": _for_inference(before), "after": _for_inference(after)}
    measured = {}
    for batch_size in (1, 64):
        times = compare_latency(ways, batch_size)
        measured[str(batch_size)] = {**times, "ratio": times["after"] / times["before"]}
    return measured


def timed(
    latency: LatencyModel | None, before: fx.GraphModule, after: fx.GraphModule, found: Clocked
) -> dict[str, Any]:
    """Return what a report tells of times, where one is asked for: predicted and measured, with their spread.

    Of the networks with their norms folded, whether what is written keeps them or not, timed in turns; of several
    processes by the first, while the others wait. Predictions are those of the model as it was measured; ``found``
    says what was asked of it, and corrected it, on the way.
    """
    return {} if latency is None else by_the_first(lambda: _timed(latency, before, after, found))


def _timed(latency: LatencyModel, before: fx.GraphModule, after: fx.GraphModule, found: Clocked) -> dict[str, Any]:
    told: dict[str, Any] = {"conditions": str(latency.table.conditions)}
    timings = latency.measured_in_turns([before, after])
    for name, one, timing in zip(("before", "after"), (before, after), timings, strict=True):
        told |= {
            f"{name}_ms": timing.milliseconds,
            f"{name}_spread": timing.spread,
            f"predicted_{name}_ms": latency.milliseconds(one),
        }
    names = ("predicted_ms", "measured_ms", "spread")
    on_the_way = [dict(zip(names, point, strict=True)) for point in found.points]
    error = None if latency.table.error is None else latency.table.error._asdict()
    return {"latency": {**told, "target_ms": found.limit, "error": error, "points": on_the_way}}


def options_and_versions(settings: Settings, goal: Goal) -> dict[str, Any]:
    """Return what a report tells of how the run was started, and of what ran it."""
    return {"settings": {**asdict(settings), **goal.options()}, "versions": versions()}


def versions() -> dict[str, str]:
    """Return what ran a job."""
    return {"fxprune": fxprune.__version__, "torch": torch.__version__, "python": platform.python_version()}


def write_results(
    out: Path, traced: fx.GraphModule, results: Sequence[PipelineResult], report: dict[str, Any], exports: Exports
) -> None:
    """Write what the last of ``results`` made to ``out``, with what all of them changed, and the report."""
    pruned = results[-1].graph_module.cpu()
    if source_obstacle(traced) is None:
        _emit(pruned, out, exports)
    else:
        save_with_torch(out / PICKLED, savable(pruned))
    write_diff(out, traced.cpu(), pruned, results, report)
    if report["preprocessing"] is not None:
        write_json(out / CONFIG, report["preprocessing"])
    write_json(out / REPORT, report)


def _emit(pruned: fx.GraphModule, out: Path, exports: Exports) -> None:
    """Write ``pruned`` with what ``exports`` asks for; what torch cannot export is left out, with a warning."""
    for wanted in dict.fromkeys((exports, replace(exports, dynamic=False), SOURCE_ONLY)):
        try:
            emit(pruned, out, formats=wanted.formats, dynamic=wanted.dynamic)
            return
        except EmitError as error:
            if not wanted.formats:
                raise
            warnings.warn(f"not all that was asked for is written: {error}", FxpruneWarning, stacklevel=2)
