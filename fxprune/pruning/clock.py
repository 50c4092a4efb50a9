"""A true clock for what is pruned while it trains: near the target the network is timed, and the model corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.targets import Targets
from fxprune.choosing.time_terms import fit_of
from fxprune.ir.processes import by_the_first
from fxprune.pruning.emitted import emitted_without
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.predictions import Latency

_NEAR = (1.2, 1.05, 1.0)
_MOST = 12


class Clock:
    """Times the network that would be emitted as predictions come near a target of time.

    At 1.2, 1.05 and once the target is met by the prediction; at the last again after each choice until the clock
    agrees. Without a model that can time networks nothing is measured. In several processes the first one measures.

    Args:
        remaining: what a graph with gates costs without some of its sites; the times in it are corrected.
        targets: what is asked for.
        latency: what predicts times, and a model of it that measures them.
        state: what another one that goes on here has measured.

    Attributes:
        targets: the same, with a share of the time as milliseconds: of what the network takes unpruned, measured.
        points: what was predicted, and what measured, in turn, in milliseconds, with the spread of the repeats.
    """

    def __init__(
        self, remaining: Remaining, targets: Targets, latency: Latency | None, state: Mapping[str, Any] | None = None
    ) -> None:
        self._remaining = remaining
        self._first = self._model = latency if isinstance(latency, LatencyModel) else None
        self._at = 0
        self.points: list[tuple[float, float, float]] = []
        self.targets = targets
        if state is not None:
            self.load_state_dict(state)
        elif targets.latency is not None and self._model is not None and not self._is_pruned:
            self._measure(())
            whole = targets.latency * self.points[-1][1]
            self.targets = replace(targets, latency=None, milliseconds=whole)

    @property
    def _is_pruned(self) -> bool:
        gates = (*self._remaining.layers.values(), *self._remaining.channels.values())
        return any(bool((gate.scale == 0).any()) for gate in gates)

    def look(self, chosen: Sequence[Site]) -> None:
        """Time the network without ``chosen`` if that is due, and correct the model."""
        limit = self.targets.milliseconds
        if limit is None or self._model is None or len(self.points) >= _MOST:
            return
        near = self._predicted(chosen) / limit
        if near <= _NEAR[self._at]:
            while self._at < len(_NEAR) - 1 and near <= _NEAR[self._at]:
                self._at += 1
            self._measure(chosen)

    def _predicted(self, chosen: Sequence[Site]) -> float:
        assert self._remaining.latency is not None
        return fit_of(self._remaining.latency)[0] + self._remaining.left(chosen).milliseconds

    def _measure(self, chosen: Sequence[Site]) -> None:
        def point() -> tuple[float, float, float]:
            plain = emitted_without(self._remaining.graph_module, chosen, channels=bool(self._remaining.channels))
            assert self._model is not None
            timing = self._model.measured(plain)
            return self._predicted(chosen), timing.milliseconds, timing.spread

        self._take(by_the_first(point))

    def _take(self, point: tuple[float, float, float]) -> None:
        self.points.append(point)
        if self._model is not None:
            self._model = self._model.corrected(point[0], point[1])
            self._remaining.refit(self._model.table)

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured, as plain data."""
        return {"points": [list(one) for one in self.points], "at": self._at, "limit": self.targets.milliseconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was measured before."""
        if state["limit"] is not None:
            self.targets = replace(self.targets, latency=None, milliseconds=state["limit"])
        self.points, self._at = [], int(state["at"])
        self._model = self._first
        for predicted, measured, spread in state["points"]:
            self._take((predicted, measured, spread))
