"""The name of before for :class:`fxprune.passes.RemoveLayers` with ``kinds=("branch",)``; it goes with 0.2."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fxprune.errors import FxpruneDeprecationWarning
from fxprune.passes.remove_layers import RemoveLayers


@dataclass(frozen=True)
class RemoveBranches(RemoveLayers):
    """Deprecated, until 0.2: remove-layers{kinds=branch} does the same."""

    name: ClassVar[str] = "remove-branches"
    kinds: Sequence[str] = field(default=("branch",), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        warnings.warn(
            'RemoveBranches goes with 0.2; use RemoveLayers(kinds=("branch",)), or remove-layers{kinds=branch}',
            FxpruneDeprecationWarning,
            stacklevel=3,  # past __init__, which the dataclass writes
        )
