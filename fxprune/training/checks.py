"""What a run refuses, or says, before it trains anything: what cannot be met or written, and what will be missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx, nn

from fxprune.emission.emit import source_obstacle
from fxprune.emission.strip import savable
from fxprune.facts.shapes import shape
from fxprune.ir.nodes import PASSES
from fxprune.ir.trace_notes import opaque_modules
from fxprune.ops.call import Call
from fxprune.passes import FoldBatchNorm, FuseResConv
from fxprune.pipelines.chains import insert_scales
from fxprune.pipelines.result import PipelineResult
from fxprune.pruning.closing import Closing, gated_for
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.other_sites import require_met
from fxprune.tracing.check import require_finite
from fxprune.tracing.trace import trace
from fxprune.training.batches import steps_per_epoch
from fxprune.training.evaluation import check_outputs
from fxprune.training.goal import Goal, OnClock, Shrink
from fxprune.training.settings import Schedule, Settings

_FOLDING = frozenset((FoldBatchNorm.name, FuseResConv.name))
PICKLED = "model.pt"
"""The file of a network that cannot be written as source: for torch.load, which needs its code."""


class Prepared(NamedTuple):
    """A network that was traced, with the scales that were put in, and why it has no source, if it has none.

    ``closing`` is what closes of these, in turn, where a plan says so; ``latency`` times it, for a target in time.
    """

    traced: fx.GraphModule
    inserted: PipelineResult
    obstacle: str | None
    closing: Closing | None = None
    latency: LatencyModel | None = None

    def shrink(self, goal: Goal) -> Shrink:
        """Return how the scales shrink for a goal."""
        if self.closing is not None:
            return self.closing
        return goal.shrink if self.latency is None else OnClock(goal.targets, self.latency)

    @property
    def opaque(self) -> list[str]:
        """The paths of the modules that could not be traced."""
        return [one.path for one in opaque_modules(self.traced)]


def prepared(model: nn.Module, examples: torch.Tensor, goal: Goal) -> Prepared:
    """Trace ``model`` on images (N, C, H, W), and put in the scales that are to shrink; ``model`` is not changed.

    Raises:
        FxpruneError: it does not take them, returns no logits, or has no eligible layers (lists why).
        TargetError: a target cannot be met; says what can.
        LoadError: the plan is for another network.
    """
    traced = traced_for_images(model, examples)
    closing = None
    if goal.plan is None:
        inserted = insert_scales(traced, what=goal.sites, keep=goal.keep, only=goal.only)
    else:
        inserted, closing = gated_for(goal.plan, traced)
    for step in inserted.steps:
        step.diff  # noqa: B018 - worked out now: training will change the scales and weights that it compares
    latency = goal.measured(traced)
    graph = inserted.graph_module
    require_met(traced, graph, goal.targets, latency, keep=goal.keep, only=goal.only)
    return Prepared(traced, inserted, source_obstacle(traced), closing, latency)


def traced_for_images(model: nn.Module, examples: torch.Tensor) -> fx.GraphModule:
    """Trace ``model`` on images (N, C, H, W); raises FxpruneError if it does not take them, or returns no logits."""
    require_finite(model)
    check_outputs(model, examples[:2])
    return trace(model, examples)


def warnings_of(ready: Prepared, goal: Goal, classes: int) -> Iterator[str]:
    """Yield what to say before a run that trains ``ready`` on images of ``classes``."""
    outputs = shape(ready.traced.graph.output_node().all_input_nodes[0]) or (0,)
    if outputs[-1] > classes:
        yield f"the model has {outputs[-1]} outputs for {classes} classes: the others only cost time (--classes)"
    if _has_folded_norms(ready.traced):
        yield (
            "the network's batch norms were folded into its weights, and training may diverge without them: write "
            "it with --norms keep to train on (emit(..., norms='keep')), or give a small --lr"
        )
    if ready.obstacle is not None:
        needs = "your code and fxprune" if savable(ready.traced) is ready.traced else "your code"
        yield (
            f"there will be a {PICKLED} and no model.py: {ready.obstacle.partition(';')[0]}; torch.load takes it "
            f"with weights_only=False, where {needs} can be imported"
        )
    if goal.targets.memory is not None and ready.opaque:
        yield f"the target of memory does not see what {ready.opaque[0]} holds inside, which could not be traced"


def advice(settings: Settings, goal: Goal, train_count: int) -> Iterator[str]:
    """Yield what to say of a fixed strength that brings no scale to zero in a training on so many images."""
    if goal.strength is None:
        return
    steps = settings.epochs * steps_per_epoch(train_count, settings.batch_size)
    schedule = Schedule(settings.lr, steps)
    fall = goal.strength * sum(schedule.at(step) for step in range(steps))
    if fall < 1:
        yield (
            f"a strength of {goal.strength:g} lowers a scale by {fall:.2g} in all, if the loss does not hold it, and "
            f"scales begin at 1: give at least {goal.strength / fall:.2g}, train for longer, or give a target instead"
        )


def _has_folded_norms(graph_module: fx.GraphModule) -> bool:
    """Say whether norms were folded into any layer, and none is left."""
    layers = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    folded = any(not _FOLDING.isdisjoint(node.meta.get(PASSES, ())) for node in layers)
    return folded and not any(Call(node).kind == "norm" for node in layers)
