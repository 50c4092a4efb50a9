"""Take out branches whose scale training has made small: :mod:`fxprune.passes.remove_layers`, of branches alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fxprune.branch_scale import BranchScale
from fxprune.passes.remove_layers import RemoveLayers


@dataclass(frozen=True)
class RemoveBranches(RemoveLayers):
    """Remove each residual branch whose scale is at or below a threshold, or the smallest until a target is met."""

    name: ClassVar[str] = "remove-branches"
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (BranchScale,)
