"""The job of uniform channel pruning: widths by gates of attention, and a plain network of them trained from scratch.

    weights drawn anew, gates put in -> trained -> measured, widths chosen -> narrow, weights drawn anew -> trained

The folder is that of :mod:`fxprune.training.job`; beside it are attention.jsonl, how the network with gates was
trained, and widths.json, what was chosen. The same command goes on after a kill, in each of the trainings and between
them. Chang et al., arXiv 2010.01251, whose recipe is 160 epochs of SGD at 0.1, divided by 10 at 80 and 120, with a
weight decay of 1e-4; here the settings decide, for both trainings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from fxprune.files import make_folder
from fxprune.ir.processes import by_the_first, share_of
from fxprune.passes import ResetWeights
from fxprune.passes.chains import FINISHING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.ucp.attention import measure_attention
from fxprune.run_record import ATTENTION, METRICS, PLAN
from fxprune.structures.channels.running import Worth
from fxprune.training.batches import in_order, loader
from fxprune.training.checks import Prepared, warnings_of
from fxprune.training.data import ImageData, sample_inputs
from fxprune.training.engine import end_together, hardware, make_accelerator
from fxprune.training.goal import Goal
from fxprune.training.job import CHECKPOINT, Run
from fxprune.training.metrics import epochs
from fxprune.training.report import (
    REPORT_SCHEMA,
    Clocked,
    compared,
    options_and_versions,
    timed,
    write_results,
)
from fxprune.training.settings import Settings
from fxprune.training.ucp_checks import prepared_with_gates, require_sense, ucp_advice
from fxprune.training.ucp_widths import ChosenWidths, choose_and_write, chosen_before
from fxprune.training.work import Rows, Work, settled, teacher_of

_BATCH = 256
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
        LoadError: a checkpoint, or widths, in ``out`` are of another run.
    """
    way = way or ByAttention()
    require_sense(goal, way.alpha, settings)
    make_folder(out)
    accelerator = run.accelerator or make_accelerator(settings, out)
    examples = sample_inputs(data)
    ready = prepared_with_gates(model, examples, goal, settings.seed)
    for line in (*warnings_of(ready, goal, data.classes), *ucp_advice(ready.traced)):
        run.say(line)
    taught_by = teacher_of(teacher or ready.traced, examples, settings)
    work = _Work(data.to(accelerator.device), out, settings, run.say, taught_by, accelerator)
    outcome = work.prune(ready, goal, way)
    report = {"schema": REPORT_SCHEMA, **(run.extra or {}), **work.report(ready, outcome, goal, way)}
    if accelerator.is_main_process:
        write_results(out, ready.traced, outcome.results, report, run.exports)
    end_together(accelerator)
    return report


@dataclass(frozen=True)
class _Outcome:
    """What came of a run."""

    chosen: ChosenWidths
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

    def _chosen(self, ready: Prepared, goal: Goal, way: ByAttention) -> tuple[ChosenWidths, PruningPlan]:
        """Return what was chosen before, or train with gates and choose."""
        chosen = by_the_first(lambda: chosen_before(self.out, goal, way.alpha))
        if chosen is None:
            gates, trained = self._gates(ready)
            chosen = by_the_first(lambda: choose_and_write(self.out, ready, goal, way.alpha, gates, trained))
        return chosen, by_the_first(lambda: PruningPlan.load(self.out / PLAN))

    def _gates(self, ready: Prepared) -> tuple[dict[str, Worth], tuple[float, float]]:
        """Train with gates; return what they are on all training images, the accuracy, and the seconds it took."""
        gated = copy.deepcopy(ready.inserted.graph_module)
        rows = self.train(gated, self.settings, "attention.pt", ATTENTION).rows
        accuracy = self.accuracy(gated)
        self.say(f"trained with gates of attention: held-out top-1 {accuracy:.2%}; measuring them")
        settled(gated).to(self.accelerator.device)
        gates = measure_attention(gated, self._images())
        return gates, (accuracy, sum(epoch["seconds"] for epoch in epochs(rows)))

    def _images(self) -> DataLoader[Any]:
        """Return this process's share of the training images, without augmentation."""
        batches = share_of(in_order(self.data.train_count, _BATCH))
        return loader(self.data.plain_train, batches, workers=self.settings.workers)

    def report(self, ready: Prepared, outcome: _Outcome, goal: Goal, way: ByAttention) -> dict[str, Any]:
        """Measure what came out, beside what went in, and return what the report tells."""
        traced, pruned, chosen = ready.traced, outcome.results[-1].graph_module, outcome.chosen
        told = {key: value for key, value in asdict(chosen).items() if key in ("alpha", "widths")}
        own = round(sum(epoch["seconds"] for epoch in epochs(outcome.rows)), 1)
        widths = list(chosen.widths.values())
        options = options_and_versions(self.settings, goal)
        options["settings"] |= way.options()
        return {
            **compared(traced, pruned, outcome.results, self.data, self.accelerator.device),
            "ucp": {**told, "seconds": {"with attention": round(chosen.seconds, 1), "from scratch": own}},
            "layers_removable": 0,
            "layers_removed": [],
            "removable": {},
            "removed": {},
            "channels_removable": sum(before for before, _ in widths),
            "channels_removed": sum(before - after for before, after in widths),
            **outcome.accuracies,
            "accuracy_after": self.accuracy(pruned),
            **timed(ready.latency, traced, pruned, Clocked.from_json(chosen.clocked)),
            "path": epochs(outcome.rows),
            **options,
            "hardware": hardware(self.accelerator),
            "seconds": round(chosen.seconds + own, 1),
        }
