"""The state of a steering, as plain data, and a steering that goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fxprune.choosing.schedule import Schedule
from fxprune.pruning.clock import Clock
from fxprune.pruning.next_site import NextSite
from fxprune.pruning.proximal import ProximalL1


class SteeringState(ProximalL1):
    """What a steering has chosen, how far that has fallen, and what was measured.

    Sites are those of the uncut graph; :class:`fxprune.SteeredL1` says of the public attributes.
    """

    order: list[str]
    chunks: dict[str, list[int]]
    clock: Clock
    _next: NextSite
    _schedule: Schedule
    _gates: dict[str, float]
    _scales: dict[str, torch.Tensor]
    _shut_before: dict[str, list[int]]
    _enough_chosen: bool
    _is_short: bool

    def _is_enough(self) -> bool:
        """Say whether nothing else has to be chosen."""
        raise NotImplementedError

    def _gates_now(self) -> dict[str, float]:
        return {path: float(layer.trained_scale.detach()) for path, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the state of the graph that is trained."""
        return {
            **super().state_dict(),
            "order": list(self.order),
            "chunks": {key: list(places) for key, places in self.chunks.items()},
            "shut_before": dict(self._shut_before),
            "channel_scales": {path: scales.clone() for path, scales in self._scales.items()},
            "shares": list(self._schedule.shares),
            "damages": dict(self._next.damages),
            "no_relief": sorted(self._next.no_relief),
            "gates": dict(self._gates),
            "clock": self.clock.state_dict(),
            "is_short": self._is_short,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; load the graph's own state too, before or, where it was cut, afterwards.

        What was cut by then is cut here too, see :meth:`ProximalL1.load_state_dict`.
        """
        super().load_state_dict(state)
        self.order = list(state["order"])
        self.chunks = {key: list(places) for key, places in state.get("chunks", {}).items()}
        self._shut_before = dict(state.get("shut_before", {}))
        for path, scales in state.get("channel_scales", {}).items():
            self._scales[path].copy_(scales)
            if self.channels[path].resting and any(group_of(key) == path for key in self.chunks):
                self._sites.gate(path).wake()
            self.channels[path].train_scale(False)
        self._schedule.shares = list(state["shares"])
        self._next.damages = dict(state["damages"])
        self._next.no_relief = set(state.get("no_relief", ()))
        if "clock" in state:
            self.clock.load_state_dict(state["clock"])
            self._next.limit_time(self.clock.targets.milliseconds)
        for path, layer in self.layers.items():
            if path in self.order and layer.resting:  # it was chosen in the last step, and its gate is still 1
                self._sites.gate(path).wake()
            layer.train_scale(False)
        self._gates = {**self._gates_now(), **state.get("gates", {})}
        self._is_short = state.get("is_short", False)
        self._enough_chosen = self._is_short or self._is_enough()


def group_of(key: str) -> str:
    """Return the path of the gate that a chunk is of."""
    return key.rpartition("[")[0]
