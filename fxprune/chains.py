"""The chains of passes around training: those that insert layer scales, and those that make a plain network again."""

from __future__ import annotations

from typing import Literal, get_args

from torch import fx

from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.passes import (
    FoldBatchNorm,
    FreezeWeights,
    FuseBranchScale,
    FuseResConv,
    InsertBranchScale,
    InsertResConv,
    Simplify,
)
from fxprune.pipeline import Pipeline, PipelineResult
from fxprune.rewriting import Pass
from fxprune.trace_notes import hiding_convs

Layers = Literal["all", "convs", "branches"]
_INSERTIONS: dict[Layers, tuple[Pass, ...]] = {
    "all": (InsertResConv(), InsertBranchScale()),  # in this order: a branch's scale reads its last norm's weight
    "convs": (InsertResConv(),),
    "branches": (InsertBranchScale(),),
}

AFTER_TRAINING: tuple[Pass, ...] = (
    FuseBranchScale(),  # first: it reads weights that the next one makes plain
    FreezeWeights(),  # before all that fuses and folds into weights
    FuseResConv(),
    FoldBatchNorm(),  # after fusing: what follows a ResConv is no norm of its conv any more
    Simplify(),  # last: factors fold into convs only once no norm stands between
)


def insert_scales(traced: fx.GraphModule, layers: Layers, *, verify: bool = True) -> PipelineResult:
    """Put a scale on every eligible layer of ``traced``; raises FxpruneError, with all reasons, if there is none."""
    if layers not in get_args(Layers):
        raise FxpruneValueError(f"layers is one of {', '.join(get_args(Layers))}; got {layers!r}")
    result = Pipeline(_INSERTIONS[layers], verify=verify)(traced)
    if result.modified:
        return result
    reasons: dict[str, list[str]] = {}
    for site in result.declined:
        reasons.setdefault(site.why, []).append(site.path or site.node)
    why = "; ".join(
        f"{paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}: {r}" for r, paths in reasons.items()
    )
    kinds = {"all": "conv or residual branch", "convs": "conv", "branches": "residual branch"}
    hidden = "".join(f"; {one}" for one in hiding_convs(traced)[:1])
    raise FxpruneError(f"the model has no removable {kinds[layers]}: {why or 'it has no convs at all'}{hidden}")
