"""The job without training: a trained network and some hundred images in, a folder with the pruned network out.

The folder is that of :mod:`fxprune.training.job`, without what tells of a training: plan.json is there as soon as
what goes is chosen, and the same command goes on from it after a kill.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx, nn

from fxprune.emission.formats import SOURCE_ONLY, Exports
from fxprune.errors import FxpruneValueError
from fxprune.files import make_folder, read_json_of, write_json
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.timed_choice import Timed
from fxprune.pruning.untrained.no_train import Untrained, choose_and_time, parted, prune_untrained
from fxprune.pruning.untrained.repaired_damage import RepairedDamage
from fxprune.pruning.untrained.step_constraint import Progress, Session, search
from fxprune.run_record import CLOCKED, PLAN, SEARCHED
from fxprune.training.checks import traced_for_images
from fxprune.training.data import ImageData, sample_batches, sample_inputs
from fxprune.training.evaluation import evaluate
from fxprune.training.goal import Goal
from fxprune.training.recipe import Say
from fxprune.training.report import REPORT_SCHEMA, Clocked, compared, timed, versions, write_results

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Without:
    """How a network is pruned without training.

    Args:
        images: how many training images are looked at; every fourth of them is held out.
        criterion: how much what may go is missed, by name; by default what is lost when it is repaired.
        search: "cap" for CaP's, of channels alone, by its criterion unless another is given.
        workers: processes that decode images.
        exports: what else is written of the pruned network.
        state: a JSON file of what was measured while it was chosen, which runs of one network share; by default in
            the folder of the run.
    """

    images: int = 512
    criterion: str | None = None
    search: str | None = None
    workers: int = 0
    exports: Exports = SOURCE_ONLY
    state: Path | None = None

    def options(self) -> dict[str, Any]:
        """Return what a record tells of it."""
        return {"no_train": True, "images": self.images, "criterion": self.criterion, "search": self.search}


def prune_on_images(
    model: nn.Module, data: ImageData, out: Path, goal: Goal, way: Without, say: Say, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Prune ``model`` to ``goal`` with some of the images of ``data``; write ``out``, return the report.

    ``model`` is not changed. Raises what :func:`fxprune.pruning.untrained.no_train.prune_untrained` raises, and
    FxpruneError if it does not take the images.
    """
    start, goal = time.monotonic(), goal.without_training
    _require_sense(goal, way)
    make_folder(out)
    traced = traced_for_images(model, sample_inputs(data)).eval()
    before = evaluate(traced, data.held_out, workers=way.workers)
    say(f"traced: held-out top-1 {before:.2%} before pruning; looking at {way.images:,} training images")
    surgery = Surgery(what=goal.sites, keep=goal.keep, only=goal.only, norms=goal.norms)
    batches = sample_batches(data, way.images)
    latency = goal.measured(traced)
    plan = goal.plan or _known_plan(out)
    if plan is None:
        plan, found_by = _chosen(traced, batches, (goal, surgery, latency), way, out)
        if found_by is not None:
            write_json(out / CLOCKED, Clocked.of(found_by).to_json())  # before the plan: then all is chosen
    plan.save(out / PLAN)
    say(f"chosen: {plan}")
    found = prune_untrained(traced, batches, plan, surgery=surgery)
    say(str(found))
    report = {
        "schema": REPORT_SCHEMA,
        **extra,
        **_measured(traced, found, data),
        **timed(latency, traced, found.result.graph_module, _known_clock(out)),
        "accuracy_before": before,
        "accuracy_after": evaluate(found.result.graph_module, data.held_out, workers=way.workers),
        "settings": {**way.options(), **goal.options()},
        "versions": versions(),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_results(out, traced, [found.result], report, way.exports)
    return report


def _chosen(
    traced: fx.GraphModule,
    batches: Sequence[Any],
    wanted: tuple[Goal, Surgery, LatencyModel | None],
    way: Without,
    out: Path,
) -> tuple[PruningPlan, Timed | None]:
    """Return what goes, by the search that is asked for, and of a time how that was found."""
    goal, surgery, latency = wanted
    fitted, held_out = parted(traced, batches)
    if way.search is None:
        criterion = way.criterion or RepairedDamage(traced, state=way.state or out / SEARCHED)
        return choose_and_time(traced, goal.targets, fitted, surgery, criterion, latency)
    session = Session(_tell, out / SEARCHED)
    options: dict[str, Any] = {"criterion": way.criterion or "cap", "keep": surgery.keep, "only": surgery.only}
    return search(traced, fitted, held_out, goal.targets, session=session, **options), None


def _require_sense(goal: Goal, way: Without) -> None:
    """Raise FxpruneValueError where a search cannot do what is asked for, before anything is measured."""
    if goal.plan is not None and (way.search is not None or way.criterion is not None):
        raise FxpruneValueError("a plan says what goes: leave criterion and search out")
    if way.search is None:
        return
    if goal.targets.is_timed:
        raise FxpruneValueError("search cap knows no target in time: leave --search out, or give other targets")
    if goal.sites != ("channels",):
        raise FxpruneValueError("search cap is of channels alone: give --what channels too")


def _tell(one: Progress) -> None:
    _LOG.info(
        "%s: held-out top-1 %.2f%%, about %.0f s left at most",
        one.group,
        100 * one.top1,
        one.seconds_left,
        extra={"share": one.evaluations / max(one.at_most, 1)},
    )


def _known_plan(out: Path) -> PruningPlan | None:
    """Return what was chosen before the run was killed, if it was."""
    return PruningPlan.load(out / PLAN) if (out / PLAN).exists() else None


def _known_clock(out: Path) -> Clocked:
    """Return what the clock said while the plan was chosen, now or before the run was killed."""
    file = out / CLOCKED
    return Clocked.from_json(read_json_of(file, "record of a clock")) if file.exists() else Clocked()


def _measured(traced: fx.GraphModule, found: Untrained, data: ImageData) -> dict[str, Any]:
    """Return what the report tells of what came out, beside what went in."""
    return {
        **compared(traced, found.result.graph_module, [found.result], data),
        "stages": {name: one.to_json() for name, one in found.stages.items()},
        "kept_stage": found.kept,
        "repaired": {site.path: site.why for site in found.repaired},
    }
