"""When layers that were chosen close, one after the other."""

from __future__ import annotations

from collections.abc import Collection


class Schedule:
    """The gate of the i-th chosen layer after t steps is ``1 - (T - s_1 - ... - s_(i-1)) / (w s_i)``, in [0, 1].

    ``s_i`` is its share of what is to be saved and ``w`` the window; ``T = t E / meet_after`` is the time in such
    shares, where ``E = 1 + (w - 1) mean(s)`` lets the last one close in time. At ``meet_after`` all are closed.

    Args:
        meet_after: after how many steps everything that was chosen is closed.
        window: how long a layer takes: 1.5 lets the next start when the last is two thirds closed.
        shares: of all that may be chosen, to tell how long the last will take.

    Attributes:
        shares: of those that were chosen, in turn.
    """

    def __init__(self, meet_after: int, window: float, shares: Collection[float]) -> None:
        self.meet_after = meet_after
        self.window = window
        self.shares: list[float] = []
        self._end = 1 + (window - 1) * sum(shares) / len(shares)

    def _time(self, step: int) -> float:
        return step / self.meet_after * self._end

    def wants_another(self, step: int) -> bool:
        """Say whether the next layer shall be chosen, if it takes another."""
        return self._time(step) >= sum(self.shares) or step >= self.meet_after

    def gate(self, index: int, step: int) -> float:
        """Return how far open the layer that was chosen as number ``index`` may be; 0: it shall be closed."""
        highest = 1 - (self._time(step) - sum(self.shares[:index])) / self._span(index)
        return 0.0 if highest <= 1e-9 or step >= self.meet_after else highest

    def _span(self, index: int) -> float:
        return max(self.window * self.shares[index], self._end / self.meet_after)
