"""The chains that make a plain network of one that was trained with scales."""

from __future__ import annotations

from typing import Literal

from fxprune.passes.fold_batch_norm import FoldBatchNorm
from fxprune.passes.freeze_weights import FreezeWeights
from fxprune.passes.fuse_branch_scale import FuseBranchScale
from fxprune.passes.fuse_channel_gate import FuseChannelGate
from fxprune.passes.fuse_resconv import FuseResConv
from fxprune.passes.simplify import Simplify
from fxprune.passes.split_resconv import SplitResConv
from fxprune.rewriting.contract import Pass

AFTER_TRAINING: tuple[Pass, ...] = (
    FuseBranchScale(),  # first: it reads weights that the next one makes plain
    FreezeWeights(),  # before all that fuses and folds into weights
    FuseResConv(),
    FuseChannelGate(),  # once plain convs read what the scales multiply
    FoldBatchNorm(),  # after fusing: what follows a ResConv is no norm of its conv any more
    Simplify(),  # last: factors fold into convs only once no norm stands between
)
"""For inference: batch norms are folded into the weights."""

AFTER_TRAINING_KEEPING_NORMS: tuple[Pass, ...] = (
    FuseBranchScale(),
    FreezeWeights(),
    SplitResConv(),
    FuseResConv(),  # those that have a shortcut
    FuseChannelGate(),
    Simplify(),
)
"""To be trained on: batch norms stay, but for those of convs that have come to have a shortcut of their own."""

Norms = Literal["fold", "keep"]
FINISHING: dict[Norms, tuple[Pass, ...]] = {"fold": AFTER_TRAINING, "keep": AFTER_TRAINING_KEEPING_NORMS}
"""The chains by what becomes of the norms."""
