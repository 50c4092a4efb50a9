"""The job of uniform channel pruning: widths by gates of attention, and a plain network of them trained from scratch.

    weights drawn anew, gates put in -> trained -> measured, widths chosen -> narrow, weights drawn anew -> trained

The folder is that of :mod:`fxprune.training.job`; beside it are attention.jsonl, how the network with gates was
trained, and widths.json, what was chosen. The same command goes on after a kill, in each of the trainings and between
them. Chang et al., arXiv 2010.01251, whose recipe is 160 epochs of SGD at 0.1, divided by 10 at 80 and 120, with a
weight decay of 1e-4; here the settings decide, for both trainings.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from fxprune.emission.emit import source_obstacle
from fxprune.errors import FxpruneValueError, FxpruneWarning, TargetError
from fxprune.files import make_folder, write_json
from fxprune.ir.processes import by_the_first
from fxprune.passes import ResetWeights
from fxprune.passes.chains import FINISHING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.choose import choose
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.ucp.attention import insert_attention, measure_attention
from fxprune.pruning.ucp.widths import Widths, choose_widths, require_one
from fxprune.run_record import ATTENTION, METRICS, PLAN, WIDTHS, read_json
from fxprune.training.batches import loader
from fxprune.training.checks import Prepared, traced_for_images, warnings_of
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import hardware, make_accelerator
from fxprune.training.goal import Goal
from fxprune.training.job import CHECKPOINT, Run
from fxprune.training.metrics import epochs
from fxprune.training.report import (
    REPORT_SCHEMA,
    Clocked,
    costs,
    latencies,
    options_and_versions,
    timed,
    write_results,
)
from fxprune.training.settings import Settings
from fxprune.training.work import Rows, Work, settled, teacher_of

_EXAMPLES, _BATCH = 16, 256
_ALONE = Run()


@dataclass(frozen=True)
class ByAttention:
    """How widths are chosen.

    Args:
        alpha: the share of a layer's mean gate above which its channels stay, in the place of targets.
    """

    alpha: float | None = None

    def options(self) -> dict[str, Any]:
        """Return what a record tells of it."""
        return {"method": "ucp", "alpha": self.alpha}


def prune_by_attention(
    model: nn.Module,
    data: ImageData,
    out: Path,
    settings: Settings,
    *,
    goal: Goal,
    way: ByAttention | None = None,
    run: Run = _ALONE,
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """Find widths for ``goal`` and train a plain network of them; write ``out``, return the report.

    ``model`` is not changed, and its weights are not gone on from: both trainings begin with weights that are drawn
    anew, and take ``settings.epochs`` each. It is the teacher of ``settings.distill`` unless another is given.

    Args:
        model: any network that returns logits.
        data: its images.
        out: the folder to write.
        settings: how both networks are trained.
        goal: the targets, the layers whose channels stay, and what becomes of norms.
        way: an alpha in the place of targets.
        run: what the run has around it.
        teacher: what both networks learn from, for ``settings.distill``.

    Raises:
        FxpruneError: no conv can be judged (says why), or alpha keeps nothing of a layer, or feature maps are to be
            learned, whose widths differ.
        TargetError: the targets cannot be met; says what can.
        LoadError: a checkpoint in ``out`` is of another run.
    """
    way = way or ByAttention()
    _require_sense(goal, way, settings)
    make_folder(out)
    accelerator = run.accelerator or make_accelerator(settings, out)
    examples = sample_inputs(data, _EXAMPLES)
    ready = _prepared(model, examples, goal, settings.seed)
    for line in (*warnings_of(ready, goal, data.classes), *_advice(ready)):
        run.say(line)
    taught_by = teacher_of(teacher or ready.traced, examples, settings)
    work = _Work(data.to(accelerator.device), out, settings, run.say, taught_by, accelerator)
    outcome = work.prune(ready, goal, way)
    report = {"schema": REPORT_SCHEMA, **(run.extra or {}), **work.report(ready, outcome, goal, way)}
    if accelerator.is_main_process:
        write_results(out, ready.traced, outcome.results, report, run.exports)
    accelerator.wait_for_everyone()  # the report is written
    accelerator.end_training()
    return report


def _require_sense(goal: Goal, way: ByAttention, settings: Settings) -> None:
    """Raise FxpruneValueError for what makes no sense beside gates of attention."""
    if goal.sites != ("channels",) or goal.strength is not None or goal.plan is not None:
        raise FxpruneValueError(
            "uniform channel pruning chooses channels by itself: give Goal(Targets(...), what='channels')"
        )
    require_one(goal.targets, way.alpha)
    if settings.distill_features:
        raise FxpruneValueError("distill_features compares feature maps, whose widths differ here: leave it out")


def _prepared(model: nn.Module, examples: torch.Tensor, goal: Goal, seed: int) -> Prepared:
    """Trace ``model``, and put gates into a copy with new weights; raises what cannot be met by channels at all."""
    traced = traced_for_images(model, examples).eval()
    reset = Pipeline([ResetWeights(seed)], verify=False)(traced).graph_module
    inserted = insert_attention(reset, keep=goal.keep, only=goal.only, seed=seed)
    latency = goal.measured(traced)
    _require_possible(traced, goal, latency)
    return Prepared(traced, inserted, source_obstacle(traced), latency=latency)


def _require_possible(traced: fx.GraphModule, goal: Goal, latency: LatencyModel | None) -> None:
    """Raise TargetError, before anything is trained, if no choice of channels meets the targets."""
    if goal.targets.is_empty:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FxpruneWarning)
        try:
            choose(traced, "channels", goal.targets, latency=latency, keep=goal.keep, only=goal.only, scope="global")
        except TargetError as error:
            raise TargetError(f"{error}; layers can go too: fxprune prune --what all, without --method") from error


def _advice(ready: Prepared) -> Iterator[str]:
    """Yield what to say of layers whose weights are not drawn anew."""
    declined = Pipeline([ResetWeights()], verify=False)(ready.traced).declined
    if declined:
        more = f", and {len(declined) - 1} more" if declined[1:] else ""
        yield f"not all weights are drawn anew: {declined[0]}{more}"


@dataclass(frozen=True)
class _Chosen:
    """What was chosen, and what is told of how; as widths.json has it, but for the plan."""

    alpha: float
    widths: Mapping[str, list[int]]
    accuracy: float
    seconds: float
    points: list[list[float]]
    gates: Mapping[str, list[float]]
    limit: float | None = None  # the milliseconds that were asked for


@dataclass(frozen=True)
class _Outcome:
    """What came of a run."""

    chosen: _Chosen
    results: list[PipelineResult]
    rows: Rows  # of the narrow network
    accuracies: Mapping[str, float]


class _Work(Work):
    """A run at work on its device."""

    def prune(self, ready: Prepared, goal: Goal, way: ByAttention) -> _Outcome:
        """Train with gates, choose widths, train a network of them, and make it plain."""
        before = self.accuracy(ready.traced)
        ready.traced.cpu()
        self.say(
            f"traced: the channels of {len(ready.inserted.rewritten)} convs are judged; held-out top-1 {before:.2%} "
            f"as given; two trainings from scratch follow, of {self.settings.epochs} epochs each"
        )
        self.accelerator.init_trackers("tensorboard")
        chosen, plan = self._chosen(ready, goal, way)
        self.say(f"alpha {chosen.alpha:.4g}: {plan}; now a plain network of these widths, from scratch")
        cut = plan.apply(ready.traced)
        reset = Pipeline([ResetWeights(self.settings.seed)], verify=False)(cut.graph_module)
        for step in (*cut.steps, *reset.steps):
            step.diff  # noqa: B018 - worked out now: training will change the weights that it compares
        narrow = copy.deepcopy(reset.graph_module)
        rows = self.train(narrow, self.settings, CHECKPOINT, METRICS).rows
        settled(narrow)
        accuracies = {"accuracy_before": before, "accuracy_with_attention": chosen.accuracy}
        if self.settings.finetune_epochs:
            accuracies["accuracy_before_finetuning"] = self.accuracy(narrow)
            rows = [*rows, *self.finetune(narrow)]
        finished = Pipeline(FINISHING[goal.norms])(settled(narrow))
        self.say(str(finished))
        if self.settings.baseline:
            unpruned = Pipeline([ResetWeights(self.settings.seed)], verify=False)(ready.traced).graph_module
            accuracies["accuracy_baseline"] = self.baseline(copy.deepcopy(unpruned))
        return _Outcome(chosen, [cut, reset, finished], rows, accuracies)

    def _chosen(self, ready: Prepared, goal: Goal, way: ByAttention) -> tuple[_Chosen, PruningPlan]:
        """Return what was chosen before, or train with gates and choose."""
        known = by_the_first(lambda: read_json(self.out / WIDTHS))
        if known is None:
            gated = copy.deepcopy(ready.inserted.graph_module)
            rows = self.train(gated, self.settings, "attention.pt", ATTENTION).rows
            accuracy = self.accuracy(gated)
            self.say(f"trained with gates of attention: held-out top-1 {accuracy:.2%}; measuring them")
            settled(gated)
            seconds = sum(epoch["seconds"] for epoch in epochs(rows))
            known = by_the_first(lambda: self._choose(gated, ready, goal, way, (accuracy, seconds)))
        return _Chosen(**known), by_the_first(lambda: PruningPlan.load(self.out / PLAN))

    def _choose(
        self, gated: fx.GraphModule, ready: Prepared, goal: Goal, way: ByAttention, trained: tuple[float, float]
    ) -> dict[str, Any]:
        """Measure the gates on all training images, choose, and write down what comes of it."""
        gated.to(self.accelerator.device)
        gates = measure_attention(gated, self._images())
        gated.cpu()
        kept: dict[str, Any] = {"keep": goal.keep, "only": goal.only}
        found = choose_widths(ready.traced, gates, goal.targets, alpha=way.alpha, latency=ready.latency, **kept)
        told = _Chosen(
            found.alpha,
            {path: list(width) for path, width in found.widths.items()},
            *trained,
            _points(found),
            {path: gate.tolist() for path, gate in gates.items()},
            None if found.timed is None else found.timed.limit,
        )
        found.plan.save(self.out / PLAN)
        write_json(self.out / WIDTHS, asdict(told))
        return asdict(told)

    def _images(self) -> Iterator[torch.Tensor]:
        """Yield the training images, without augmentation."""
        count = self.data.train_count
        batches = [list(range(first, min(first + _BATCH, count))) for first in range(0, count, _BATCH)]
        for batch in loader(self.data.plain_train, batches, workers=self.settings.workers):
            if batch is not None:
                yield batch[0]

    def report(self, ready: Prepared, outcome: _Outcome, goal: Goal, way: ByAttention) -> dict[str, Any]:
        """Measure what came out, beside what went in, and return what the report tells."""
        traced, pruned, chosen = ready.traced.cpu(), outcome.results[-1].graph_module.cpu(), outcome.chosen
        prepared_by = self.data.preprocessing
        told = {key: value for key, value in asdict(chosen).items() if key in ("alpha", "widths")}
        own = round(sum(epoch["seconds"] for epoch in epochs(outcome.rows)), 1)
        widths = list(chosen.widths.values())
        options = options_and_versions(self.settings, goal)
        options["settings"] |= way.options()
        points: Any = [tuple(one) for one in chosen.points]
        return {
            **costs(traced, pruned),
            "opaque": ready.opaque,
            "preprocessing": prepared_by and prepared_by.to_config(),
            "ucp": {**told, "seconds": {"with attention": round(chosen.seconds, 1), "from scratch": own}},
            "layers_removable": 0,
            "layers_removed": [],
            "removable": {},
            "removed": {},
            "channels_removable": sum(before for before, _ in widths),
            "channels_removed": sum(before - after for before, after in widths),
            **outcome.accuracies,
            "accuracy_after": self.accuracy(pruned),
            "max_relative_difference": max(one.max_relative or 0.0 for one in outcome.results),
            "latency_ms": latencies(traced.to(self.accelerator.device), pruned),
            **timed(ready.latency, traced, pruned, Clocked(chosen.limit, points)),
            "path": epochs(outcome.rows),
            **options,
            "hardware": hardware(self.accelerator),
            "seconds": round(chosen.seconds + own, 1),
        }


def _points(found: Widths) -> list[list[float]]:
    """Return what was predicted and measured on the way to a time."""
    return [] if found.timed is None else [[one.predicted, one.measured, one.spread] for one in found.timed.tries]
