"""How far a graph without some of its layers is from a target: the interface of every cost that has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

from fxprune.choosing.remaining import Site


class Budget(ABC):
    """What a graph may cost of one kind; made with a graph and the share to leave.

    What cannot be met without all layers is refused when it is made, with a TargetError that says what can.
    """

    @abstractmethod
    def excess(self, removed: Sequence[Site]) -> float:
        """Return by how much the graph without these sites costs too much; 0 or less where it does not."""

    def is_met(self, removed: Sequence[Site]) -> bool:
        """Say whether the graph without these sites costs no more than it may."""
        return self.excess(removed) <= 0

    def macs_to_meet_it(self) -> int:
        """Return MACs a sample that have to go for this, where :class:`SumBudget` does not tell in its own unit."""
        return 0


class SumBudget(Budget):
    """A budget of a cost that is a sum over the graph: what a site saves of it can be told one at a time.

    Attributes:
        unit: the least that counts as missing, so that a layer still has a share once the target is met.
    """

    unit: ClassVar[float] = 0.0

    @abstractmethod
    def left(self, removed: Sequence[Site]) -> float:
        """Return what the graph without these sites costs."""

    @abstractmethod
    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, float]:
        """Return by path what the removal of each candidate saves beside what is removed already."""

    @property
    def surplus(self) -> float:
        """What has to be saved in all."""
        return self.excess(())

    def missing(self, removed: Sequence[Site]) -> float:
        """Return what is still to be saved, a unit at least."""
        return max(self.excess(removed), self.unit)
