"""What uniform channel pruning refuses, or says, before it trains anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import fx, nn

from fxprune.emission.emit import source_obstacle
from fxprune.errors import FxpruneValueError, FxpruneWarning, TargetError
from fxprune.passes import FreezeWeights, ResetWeights
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.choose import choose
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.ucp.attention import insert_attention
from fxprune.pruning.ucp.widths import require_one
from fxprune.rewriting.contract import Site
from fxprune.training.checks import Prepared, traced_for_images
from fxprune.training.goal import Goal
from fxprune.training.settings import Settings


def require_sense(goal: Goal, alpha: float | None, settings: Settings) -> None:
    """Raise FxpruneValueError for what makes no sense beside gates of attention."""
    if goal.sites != ("channels",) or goal.strength is not None or goal.plan is not None:
        raise FxpruneValueError(
            "uniform channel pruning chooses channels by itself: give Goal(Targets(...), what='channels')"
        )
    require_one(goal.targets, alpha)
    if settings.distill_features:
        raise FxpruneValueError("distill_features compares feature maps, whose widths differ here: leave it out")


def prepared_with_gates(model: nn.Module, examples: torch.Tensor, goal: Goal, seed: int) -> Prepared:
    """Trace ``model`` on images (N, C, H, W), and put gates into a copy whose weights are drawn anew.

    Raises:
        FxpruneError: it does not take them, returns no logits, or no conv can be judged (says why).
        TargetError: no choice of channels meets the targets; says what can.
    """
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


def ucp_advice(traced: fx.GraphModule) -> Iterator[str]:
    """Yield what to say of layers whose weights are not drawn anew, or will be others in what comes out."""
    declined = Pipeline([ResetWeights()], verify=False)(traced).declined
    if declined:
        yield f"not all weights are drawn anew: {_first_of(declined)}"
    frozen = Pipeline([FreezeWeights()], verify=False)(traced)
    if frozen.warnings:  # of weights that are computed; functions that read a parameter only become layers
        yield (
            f"weights are computed from others in {frozen.rewritten[0].path}: the network of the found widths has "
            "plain ones instead, and trains these"
        )


def _first_of(sites: Sequence[Site]) -> str:
    more = f", and {len(sites) - 1} more" if sites[1:] else ""
    return f"{sites[0]}{more}"
