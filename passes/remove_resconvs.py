"""Take out the ResConvs whose scale training has made small: :mod:`fxprune.passes.remove_layers`, of convs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fxprune.passes.remove_layers import RemoveLayers
from fxprune.resconv import ResConv


@dataclass(frozen=True)
class RemoveResConvs(RemoveLayers):
    """Remove each ResConv whose scale is at or below a threshold, or the smallest until a target is met."""

    name: ClassVar[str] = "remove-resconvs"
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (ResConv,)
