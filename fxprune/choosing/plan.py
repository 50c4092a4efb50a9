"""How the layers that go are chosen, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.search.base import Search
from fxprune.ir.arguments import option_kinds, require_kind


@dataclass(frozen=True)
class Plan:
    """How :class:`fxprune.SteeredL1` chooses the layers that go, one after the other, and how fast each closes.

    Args:
        criterion: how much a layer is missed, by name or as a :class:`fxprune.choosing.criteria.base.Criterion`.
        search: which layer that makes the next, by name or as a :class:`fxprune.choosing.search.base.Search`.
        window: how long a layer is shrunk: its share of the MACs to save, times the steps, times this (1.5: the next
            starts when the last is two thirds closed).

    Raises:
        FxpruneError: one is of another kind.
    """

    criterion: str | Criterion = "half-gate"
    search: str | Search = "lazy-greedy"
    window: float = 1.5

    def __post_init__(self) -> None:
        for name, hint in option_kinds(Plan).items():
            require_kind(getattr(self, name), hint, "Plan", name)
