"""A true clock for what is pruned while it trains: near the target the network is timed, and the model corrected."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import fx

from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError, FxpruneWarning, first_line
from fxprune.ir.processes import by_the_first
from fxprune.pruning.emitted import emitted_whole, emitted_without
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.predictions import Latency

_NEAR = (1.2, 1.05, 1.0)
_MOST = 12


class Clock:
    """Times the network that would be emitted as predictions come near a target of time.

    At 1.2, 1.05 and once the target is met by the prediction; at the last again after each choice until the clock
    agrees. Each time in turns with the unpruned network, at whose first time all are told: the pace of a machine
    drifts over a training. Without a model that can time networks nothing is measured. In several processes the first
    one measures. A clock that fails on the way is told in a warning, and predictions go on without it.

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
        self._usual = 0.0  # milliseconds of the unpruned network when it was first timed
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

    @cached_property
    def _whole(self) -> fx.GraphModule:
        """The unpruned network as it would be emitted."""
        return emitted_whole(self._remaining.graph_module)

    def _emitted(self, chosen: Sequence[Site]) -> fx.GraphModule:
        return emitted_without(self._remaining.graph_module, chosen, channels=bool(self._remaining.channels))

    def look(self, chosen: Sequence[Site]) -> bool:
        """Time the network without ``chosen`` if that is due, and correct the model; say whether that was done."""
        limit, before = self.targets.milliseconds, len(self.points)
        if limit is None or self._model is None or before >= _MOST:
            return False
        near = self._predicted(chosen) / limit
        if near <= _NEAR[self._at]:
            while self._at < len(_NEAR) - 1 and near <= _NEAR[self._at]:
                self._at += 1
            try:
                self._measure(chosen)
            except (FxpruneError, RuntimeError) as error:  # memory is over, say: what was trained is worth more
                self._model = None
                warnings.warn(
                    f"predictions of time go on uncorrected: {first_line(error)}", FxpruneWarning, stacklevel=2
                )
        return len(self.points) > before

    def _predicted(self, chosen: Sequence[Site]) -> float:
        return self._remaining.milliseconds(chosen)

    def _measure(self, chosen: Sequence[Site]) -> None:
        def point() -> tuple[tuple[float, float, float], float]:
            model, usual = self._model, self._usual
            assert model is not None
            if not chosen and not self._is_pruned:
                timing = model.measured(self._whole)
                usual = usual or timing.milliseconds
            else:
                usual = usual or model.measured(self._whole).milliseconds
                timing = model.measured_beside(self._emitted(chosen), self._whole, usual)
            return (self._predicted(chosen), timing.milliseconds, timing.spread), usual

        found, self._usual = by_the_first(point)
        self._take(found)

    def _take(self, point: tuple[float, float, float]) -> None:
        self.points.append(point)
        if self._model is not None:
            self._model = self._model.corrected(point[0], point[1])
            self._remaining.refit(self._model.table)

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured, as plain data."""
        points, limit = [list(one) for one in self.points], self.targets.milliseconds
        return {"points": points, "at": self._at, "limit": limit, "usual": self._usual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was measured before."""
        if state["limit"] is not None:
            self.targets = replace(self.targets, latency=None, milliseconds=state["limit"])
        self.points, self._at, self._usual = [], int(state["at"]), float(state.get("usual", 0.0))
        self._model = self._first
        for predicted, measured, spread in state["points"]:
            self._take((predicted, measured, spread))
