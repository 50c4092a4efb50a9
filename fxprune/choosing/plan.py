"""How the layers and channels that go are chosen, in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.search.base import Search
from fxprune.errors import FxpruneValueError
from fxprune.ir.arguments import option_kinds, require_kind


@dataclass(frozen=True)
class Plan:
    """How :class:`fxprune.SteeredL1` chooses what goes, one after the other, and how fast each closes.

    Args:
        criterion: how much a layer is missed, by name or as a :class:`fxprune.choosing.criteria.base.Criterion`.
        within: how much a channel is missed beside the others of its group: those that close together are the least.
        search: which layer that makes the next, by name or as a :class:`fxprune.choosing.search.base.Search`.
        window: how long a layer is shrunk: its share of the MACs to save, times the steps, times this (1.5: the next
            starts when the last is two thirds closed).
        chunk: the share of a group's channels that close together; above 0, at most a half.
        multiple_of: of what the number of channels that close together is a multiple.

    Raises:
        FxpruneError: one is of another kind, or out of range.
    """

    criterion: str | Criterion = "half-gate"
    within: str | Criterion = "read-share"
    search: str | Search = "lazy-greedy"
    window: float = 1.5
    chunk: float = 0.125
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Plan).items():
            require_kind(getattr(self, name), hint, "Plan", name)
        if not 0 < self.window < math.inf:
            raise FxpruneValueError(f"window of Plan is a number above 0; got {self.window}")
        if not 0 < self.chunk <= 0.5:
            raise FxpruneValueError(f"chunk of Plan is a share of a group's channels, at most 0.5; got {self.chunk}")
        if self.multiple_of < 1:
            raise FxpruneValueError(f"multiple_of of Plan is 1 at least; got {self.multiple_of}")
