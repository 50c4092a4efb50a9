"""The main job: a trained network and images in, a folder with the pruned network and its report out.

The folder holds the emitted model (model.py, weights.safetensors, graph.json; where a part of it could not be traced,
model.pt: the network for torch.load, which needs its code), config.json (how images are prepared for it, and its
classes), report.json, what was changed (diff.html, diff.txt, diff.json), what was closed (plan.json, which fxprune
apply takes), how it was trained (run.json, metrics.jsonl), and checkpoint.pt, from which the same command goes on
after a kill.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import fx, nn

from fxprune import passes
from fxprune.choosing.remaining import Remaining, Site
from fxprune.costs.latency.latency_table import table_of
from fxprune.costs.macs import total_macs, total_params
from fxprune.emission.formats import SOURCE_ONLY, Exports
from fxprune.files import make_folder
from fxprune.gates.channel_gate import ChannelScale
from fxprune.passes.chains import FINISHING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.closing import plan_of
from fxprune.pruning.old_names import takes_old_names
from fxprune.pruning.proximal import ProximalL1
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.split import Split, split_of
from fxprune.pruning.steering import SteeredL1
from fxprune.rewriting.contract import Pass
from fxprune.run_record import METRICS, PLAN
from fxprune.structures.gated_layers import Gate, by_kind, counted, gates_of
from fxprune.structures.gated_layers import layers as layers_of
from fxprune.training.checks import Prepared, advice, prepared, warnings_of
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import end_together, hardware, make_accelerator
from fxprune.training.goal import Goal
from fxprune.training.metrics import epochs
from fxprune.training.recipe import Say
from fxprune.training.report import (
    REPORT_SCHEMA,
    Clocked,
    compared,
    options_and_versions,
    timed,
    write_results,
)
from fxprune.training.settings import Settings
from fxprune.training.work import Rows, Work, settled, teacher_of

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT = "checkpoint.pt"


def say_nothing(_: str) -> None:
    """Take no note of a line."""


@dataclass(frozen=True)
class Run:
    """What a run has around it.

    Args:
        say: what is told how it goes, a line at a time.
        extra: what the report tells beside its own, of where the network and the images came from.
        accelerator: on what it trains; made from the settings by default. Of several processes, the main one writes.
        exports: what else is written of the pruned network.
    """

    say: Say = say_nothing
    extra: Mapping[str, Any] | None = None
    accelerator: Accelerator | None = None
    exports: Exports = SOURCE_ONLY


_ALONE = Run()


@takes_old_names(goal=Goal, run=Run)
def prune_on_data(
    model: nn.Module,
    data: ImageData,
    out: Path,
    settings: Settings,
    *,
    goal: Goal,
    run: Run = _ALONE,
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """Prune ``model`` to ``goal`` while it trains on ``data``; write ``out``, return the report.

    ``model`` is not changed. It is the teacher of ``settings.distill`` and ``distill_features`` too, unless another
    is given.

    Raises FxpruneError if it has no eligible layers (lists why), TargetError if the target cannot be met, LoadError
    if the plan is for another network, and what
    :func:`fxprune.training.recipe.train` raises.
    """
    make_folder(out)
    accelerator = run.accelerator or make_accelerator(settings, out)
    examples = sample_inputs(data)
    ready = prepared(model, examples, goal)
    for line in warnings_of(ready, goal, data.classes):
        run.say(line)
    taught_by = teacher_of(teacher or ready.traced, examples, settings)
    work = _Work(data.to(accelerator.device), out, settings, run.say, taught_by, accelerator)
    outcome = work.prune(ready, goal)
    report = {"schema": REPORT_SCHEMA, **(run.extra or {}), **work.report(ready, outcome, goal)}
    if accelerator.is_main_process:
        outcome.plan.save(out / PLAN)
        write_results(out, ready.traced, [ready.inserted, *outcome.results], report, run.exports)
    end_together(accelerator)
    return report


class _Outcome(NamedTuple):
    """What came of a run."""

    plan: PruningPlan  # what was closed
    clocked: Clocked  # what the clock said on the way, where a time is asked for
    results: list[PipelineResult]
    rows: Rows  # of all training
    path: Rows  # of the epochs in which layers went
    layers: dict[str, Any]  # as the report tells them
    accuracies: dict[str, float]  # likewise


@dataclass(frozen=True)
class _Work(Work):
    """A run at work on its device: gates are trained to zero."""

    def prune(self, ready: Prepared, goal: Goal) -> _Outcome:
        """Train the graph with scales, take the layers out that went to zero, and make a plain network of it."""
        sparse = ready.inserted.graph_module
        groups = channels_of(sparse)
        unpruned = copy.deepcopy(ready.traced) if self.settings.baseline else None  # before any weight is trained
        before = self.accuracy(ready.traced)
        told = [counted(layers_of(sparse))] if layers_of(sparse) or not groups else []
        told += [f"{sum(groups.values()):,} channels"] if groups else []
        self.say(f"traced: {' and '.join(told)} can go; held-out top-1 {before:.2%} before pruning")
        for line in advice(self.settings, goal, self.data.train_count):
            self.say(line)
        self.accelerator.init_trackers("tensorboard")
        rows, shrink = self.train(sparse, self.settings, CHECKPOINT, METRICS, ready.shrink(goal))
        path = epochs(rows)
        trained = self.accuracy(sparse)
        closed = sum(groups.values()) - sum(
            int((gate.scale > 0).sum()) for gate in gates_of(sparse) if gate.path in groups
        )
        settled(sparse)
        candidates = layers_of(sparse)
        cut: list[Pass] = [
            passes.RemoveLayers(threshold=0.0, target_macs=None if goal.strength is None else goal.targets.macs)
        ]
        finishing: list[Pass] = [*FINISHING[goal.norms]]
        if groups:  # where layers have gates channels go once these are in the weights
            (finishing if candidates else cut).append(passes.RemoveChannels())
        results = [Pipeline(cut if self.settings.finetune_epochs else [*cut, *finishing])(sparse)]
        removed = results[0].steps[len(cut) - 1].result.graph_module
        without = self.accuracy(removed)
        staying = {layer.path for layer in layers_of(removed)}
        gone = [layer for layer in candidates if layer.path not in staying]  # with what lay in branches
        sites = _closed(shrink, gone)
        plan = _plan(ready, shrink, sites, goal)
        clocked = Clocked()
        if isinstance(shrink, SteeredL1):
            clocked = Clocked(shrink.clock.targets.milliseconds, shrink.clock.points)
        self.say(f"removed {counted(gone) if gone else 'channels'}: held-out top-1 {trained:.2%} -> {without:.2%}")
        if self.settings.finetune_epochs:
            rows += self.finetune(removed)
            results.append(Pipeline(finishing)(removed))
        for result in results:
            self.say(str(result))
        layers: dict[str, Any] = {"layers_removable": len(candidates), "layers_removed": [one.path for one in gone]}
        layers |= {"removable": by_kind(candidates), "removed": by_kind(gone)}
        layers["saved_by"] = _split(ready, sites)
        if groups:
            layers |= {"channels_removable": sum(groups.values()), "channels_removed": closed}
        steps = ("accuracy_before", "accuracy_before_removal", "accuracy_after_removal")
        accuracies = dict(zip(steps, (before, trained, without), strict=True))
        if unpruned is not None:
            accuracies["accuracy_baseline"] = self.baseline(unpruned)
        return _Outcome(plan, clocked, results, rows, path, layers, accuracies)

    def report(self, ready: Prepared, outcome: _Outcome, goal: Goal) -> dict[str, Any]:
        """Measure what came out, beside what went in, and return what the report tells."""
        traced, pruned = ready.traced, outcome.results[-1].graph_module
        results = [ready.inserted, *outcome.results]
        return {
            **compared(traced, pruned, results, self.data, self.accelerator.device),
            **outcome.layers,
            **outcome.accuracies,
            "accuracy_after": self.accuracy(pruned),
            **timed(ready.latency, traced, pruned, outcome.clocked),
            "path": outcome.path,
            **options_and_versions(self.settings, goal),
            "hardware": hardware(self.accelerator),
            "seconds": round(sum(epoch["seconds"] for epoch in epochs(outcome.rows)), 1),
        }


def channels_of(graph_module: fx.GraphModule) -> dict[str, int]:
    """Return how many channels each gate of channels has, by its path."""
    return {gate.path: gate.width for gate in gates_of(graph_module) if gate.kind == ChannelScale.kind}


def _closed(shrink: ProximalL1 | None, gone: Sequence[Gate]) -> list[Site]:
    """Return what training closed, in turn, and what was cut at its end."""
    closed = [] if shrink is None else shrink.closed_in_turn
    cut = {one.path for one in gone} - {one.path for one in closed}
    return [*closed, *(one for one in gone if one.path in cut)]


def _plan(ready: Prepared, shrink: ProximalL1 | None, closed: Sequence[Site], goal: Goal) -> PruningPlan:
    """Return what is gone as a plan."""
    criterion, targets = "", goal.targets
    if goal.plan is not None:
        criterion, targets = goal.plan.criterion, goal.plan.targets
    elif goal.strength is not None:
        criterion = f"strength {goal.strength:g}"
    elif isinstance(shrink, SteeredL1):
        criterion = shrink.criterion.name
    return plan_of(ready.traced, ready.inserted.graph_module, closed, criterion, targets)


def _split(ready: Prepared, closed: Sequence[Site]) -> Split:
    """Return which shares of the traced network's costs went with layers, and which with channels."""
    remaining = Remaining(ready.inserted.graph_module, latency=table_of(ready.latency))
    return split_of(remaining, closed, total_macs(ready.traced), total_params(ready.traced))
