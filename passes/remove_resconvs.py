"""The name of before for :class:`fxprune.passes.RemoveLayers` with ``kinds=("conv",)``; it goes with 0.2."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fxprune.errors import FxpruneDeprecationWarning
from fxprune.passes.remove_layers import RemoveLayers


@dataclass(frozen=True)
class RemoveResConvs(RemoveLayers):
    """Deprecated, until 0.2: remove-layers{kinds=conv} does the same."""

    name: ClassVar[str] = "remove-resconvs"
    kinds: Sequence[str] = field(default=("conv",), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        warnings.warn(
            'RemoveResConvs goes with 0.2; use RemoveLayers(kinds=("conv",)), or remove-layers{kinds=conv}',
            FxpruneDeprecationWarning,
            stacklevel=3,  # past __init__, which the dataclass writes
        )
