"""Pruning without training: choose, remove, repair, verify; minutes, some hundred images, no loss and no labels.

found = prune_untrained(traced, loader, fxprune.Targets(macs=0.7))
print(found)                        # what each step did to images that nothing was fitted to
found.result.graph_module           # the plain network
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import fx, nn

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.named import known_criteria, made
from fxprune.choosing.samples import Batch, Samples
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError, FxpruneWarning
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import require_graph
from fxprune.ir.time_left import Progress
from fxprune.passes import MeasureNorms, Repair
from fxprune.passes.chains import FINISHING
from fxprune.pipelines import SITES, sites_named
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pipelines.result import PipelineResult, joined
from fxprune.pruning.choose import choose
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.sensitivity.output_change import is_finite
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.timed_choice import Timed, timed_choice
from fxprune.pruning.untrained.quality import Quality, outputs_of, quality
from fxprune.pruning.untrained.repaired_damage import RepairedDamage
from fxprune.rewriting.contract import Site
from fxprune.run_results import stages_text
from fxprune.tracing.trace import trace

_LOG = logging.getLogger(__name__)
HELD_OUT = 4
"""Of so many images of a batch, or of so many small batches, nothing is fitted to the last, where none are given."""
UNPRUNED, CUT, NORMS, REPAIRED, BOTH = "unpruned", "cut", "norms anew", "repaired", "repaired, norms anew"
_USUAL = Surgery()
_BATCH, _TRACED = 64, 16


@dataclass(frozen=True, repr=False)
class Untrained:
    """What came of pruning without training.

    Attributes:
        plan: what went.
        result: the result of all passes; its ``graph_module`` is the pruned network.
        stages: how it did on held-out images after each step, by name; controls too: the cut alone, and with its
            batch norms measured anew.
        kept: the name of the stage that the result is of.
        timed: for a target in time what was predicted and measured; None for others.
    """

    plan: PruningPlan
    result: PipelineResult
    stages: Mapping[str, Quality]
    kept: str
    timed: Timed | None = None

    @property
    def repaired(self) -> tuple[Site, ...]:
        """The layers that were fitted, each with how far it is off what it was fitted to."""
        return tuple(site for step in self.result.steps if step.name == Repair.name for site in step.result.rewritten)

    def __str__(self) -> str:
        told = stages_text({"stages": {name: one.to_json() for name, one in self.stages.items()}})
        return told if self.timed is None else f"{told}\n{self.timed}"


def prune_untrained(
    graph_module: fx.GraphModule,
    data: Iterable[Any],
    to: Targets | PruningPlan,
    *,
    surgery: Surgery = _USUAL,
    criterion: str | Criterion | None = None,
    held_out: Iterable[Any] | None = None,
    latency: LatencyModel | None = None,
) -> Untrained:
    """Prune a traced network with some hundred images, and repair it by least squares.

    Args:
        graph_module: what :func:`fxprune.trace` returned, in eval mode; it is never changed.
        data: an iterable of inputs, or of pairs of these and labels; labels are for telling the top-1 alone.
        to: the shares of costs to leave, or a time, or a plan of what goes. For a time the choice is measured as it
            would be emitted, and made again where it is above 1.02 of the target, or below 0.93
            (:mod:`fxprune.pruning.timed_choice`).
        surgery: what may go, by default convs, branches and channels, and what becomes of batch norms.
        criterion: how much each is missed; by default what is lost where it is repaired (repaired_damage).
        held_out: images like ``data`` that nothing is fitted to; by default every fourth of it.
        latency: what predicts and measures times, for a target of these; measured of this network by default, in
            eager mode, for as many images at a time as were traced.

    Raises:
        FxpruneError: the network is in train mode, there are no images, or nothing may go.
        TargetError: the targets cannot be met; says what can.
        LoadError: the plan is for another network; says where they differ.
    """
    require_arguments(prune_untrained, locals())
    graph_module = require_graph(graph_module, "prune_untrained")
    if graph_module.training:
        raise FxpruneError("the network is in train mode, where what it computes depends on the batch: call .eval()")
    fitted, told_on = parted(graph_module, data, held_out)
    wanted = outputs_of(graph_module, told_on)
    _require_finite(wanted)
    timed = None
    if isinstance(to, PruningPlan):
        plan = to
    else:
        plan, timed = choose_and_time(graph_module, to, fitted, surgery, criterion, latency)
    cut = plan.apply(graph_module, verify=surgery.verify)
    repair = Repair(data=fitted, reference=graph_module)
    measure = MeasureNorms(data=fitted)
    results = {CUT: cut}
    for name, step, after in ((NORMS, measure, CUT), (REPAIRED, repair, CUT), (BOTH, measure, REPAIRED)):
        results[name] = Pipeline([step], verify=surgery.verify)(results[after].graph_module)
    stages = {UNPRUNED: quality(graph_module, told_on, wanted)}
    stages |= {name: quality(one.graph_module, told_on, wanted) for name, one in results.items()}
    path = (CUT, REPAIRED, BOTH)
    kept = min(path, key=lambda name: stages[name].moved)
    if math.isinf(stages[kept].moved):
        raise FxpruneError(
            "the pruned network returns NaN or infinity on these images, repaired too: leave more of it"
        )
    end = Pipeline(FINISHING[surgery.norms], verify=surgery.verify)(results[kept].graph_module)
    steps = [results[name] for name in path[: path.index(kept) + 1]]
    return Untrained(plan, joined([*steps, end]), stages, kept, timed)


def untrained(
    model: nn.Module,
    images: Any,
    labels: torch.Tensor | None,
    to: Targets | PruningPlan,
    surgery: Surgery,
    latency: LatencyModel | None = None,
) -> Untrained:
    """Trace ``model`` and prune it as :func:`prune_untrained`; ``images`` are a tensor, (N, ...), or batches."""
    if isinstance(to, Targets) and to.is_empty:
        raise FxpruneValueError("targets says how much is to be left: give Targets(macs=0.7), say")
    data = _batches(images, labels)
    first = next(iter(Samples(data)), None)
    if first is None:
        raise FxpruneValueError("there are no images: give some hundred")
    graph_module = trace(model, first.first(_TRACED).inputs).eval()
    return prune_untrained(graph_module, data, to, surgery=surgery, latency=latency)


def _batches(images: Any, labels: torch.Tensor | None) -> list[Any]:
    """Return images in batches, with their labels, if they are one tensor."""
    if not isinstance(images, torch.Tensor):
        if labels is not None:
            raise FxpruneTypeError("labels are of a tensor of images; of batches give pairs of images and labels")
        if not isinstance(images, Iterable):
            raise FxpruneTypeError(f"without fit, images are a tensor or batches; got a {type(images).__name__}")
        return list(images)
    if labels is not None and len(labels) != len(images):
        raise FxpruneValueError(f"there are {len(images)} images and {len(labels)} labels: one label an image")
    parts = torch.split(images, _BATCH)
    return list(parts) if labels is None else list(zip(parts, torch.split(labels, _BATCH), strict=True))


def choose_untrained(
    graph_module: fx.GraphModule,
    data: Iterable[Any],
    targets: Targets,
    *,
    surgery: Surgery = _USUAL,
    criterion: str | Criterion | None = None,
    latency: LatencyModel | None = None,
) -> PruningPlan:
    """Return what :func:`prune_untrained` takes out for ``targets``; arguments and errors are the same."""
    require_arguments(choose_untrained, locals())
    graph_module = require_graph(graph_module, "choose_untrained")
    return choose_and_time(graph_module, targets, parted(graph_module, data, None)[0], surgery, criterion, latency)[0]


def choose_and_time(
    graph_module: fx.GraphModule,
    targets: Targets,
    data: Sequence[Batch],
    surgery: Surgery,
    criterion: str | Criterion | None,
    latency: LatencyModel | None,
) -> tuple[PruningPlan, Timed | None]:
    """Return what goes for ``targets``, chosen on batches, and of a time how that was found."""
    with TemporaryDirectory() as folder:
        state = Path(folder) / "damages.json" if targets.is_timed else None  # they stay, whatever the times are
        one = RepairedDamage(graph_module, state=state) if criterion is None else copy(_made(criterion))
        one.comparing = _telling()
        what = sites_named(surgery.what, surgery.layers, SITES)
        options: dict[str, Any] = {"scope": "global", "keep": surgery.keep, "only": surgery.only}

        def chosen(targets: Targets, latency: LatencyModel | None) -> PruningPlan:
            if one.needs != "weights":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FxpruneWarning)
                    choose(graph_module, what, targets, criterion="l1", latency=latency, **options)  # raises at once
            return choose(graph_module, what, targets, criterion=one, data=data, latency=latency, **options)

        if not targets.is_timed:
            return chosen(targets, None), None
        return timed_choice(graph_module, targets, latency or LatencyModel.measure(graph_module), chosen)


def _made(criterion: str | Criterion) -> Criterion:
    return made(criterion, known_criteria(), "criterion")


def _telling() -> Callable[[int, int], None]:
    """Return what tells how far a criterion is."""
    known: dict[int, Progress] = {}

    def comparing(done: int, of: int) -> None:
        known.setdefault(of, Progress(_LOG, of)).tell(done, "taking out one thing at a time")

    return comparing


def parted(
    graph_module: fx.GraphModule, data: Iterable[Any], held_out: Iterable[Any] | None = None
) -> tuple[list[Batch], list[Batch]]:
    """Return the batches to fit on, and those to tell the quality on."""
    batches = list(Samples.of(graph_module, data))
    if held_out is not None:
        return batches, list(Samples.of(graph_module, held_out))
    fitted, rest = [], []
    for batch in batches:
        rest += batch.every(HELD_OUT)
        fitted += batch.every(HELD_OUT, others=True)
    if not rest:
        rest = batches[HELD_OUT - 1 :: HELD_OUT]
        fitted = [batch for index, batch in enumerate(batches) if index % HELD_OUT != HELD_OUT - 1]
    if not rest:
        raise FxpruneValueError(f"of fewer than {HELD_OUT} images none can be held out: give some hundred")
    return fitted, rest


def _require_finite(outputs: Sequence[Any]) -> None:
    if not is_finite(list(outputs)):
        raise FxpruneError("the network returns NaN or infinity on these images: is it trained, are they prepared?")
