"""The passes that make a plain, fast network of one that was trained with layer scales."""

from __future__ import annotations

from fxprune.passes import FoldBatchNorm, FreezeWeights, FuseBranchScale, FuseResConv, Simplify
from fxprune.rewriting import Pass

AFTER_TRAINING: tuple[Pass, ...] = (
    FuseBranchScale(),  # first: it reads weights that the next one makes plain
    FreezeWeights(),  # before all that fuses and folds into weights
    FuseResConv(),
    FoldBatchNorm(),  # after fusing: what follows a ResConv is no norm of its conv any more
    Simplify(),  # last: factors fold into convs only once no norm stands between
)
