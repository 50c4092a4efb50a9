"""Runs of a graph without one thing at a time, each from there on: what comes before is computed once for all.

    x1 = f(x); x2 = g(x1); y = h(x2)         without g: h(a * x1), with x1 as it is

What a run without a conv computes in its place is what :class:`fxprune.passes.RemoveLayers` leaves there, a factor
times its input; without a branch it is the shortcut; without channels what reads them reads zeros, which is what is
left of a sum whose terms were cut. So each run gives what the network that is really cut gives, but for rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.facts.effects import is_foreign, is_in_place
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.autocast import autocast_kept
from fxprune.ir.pytrees import copy_tensors
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Running, reads_of


@dataclass(frozen=True, eq=False)
class WithoutLayer:
    """A run in which ``factor`` times what ``source`` computes stands for ``target``; ``nodes`` are not run."""

    start: fx.Node
    source: fx.Node
    target: fx.Node
    factor: float
    nodes: Collection[fx.Node] = ()


@dataclass(frozen=True, eq=False)
class WithoutChannels:
    """A run in which whoever reads the classes ``gone`` reads zeros; ``start`` is the first to read any."""

    start: fx.Node
    gone: frozenset[int]


Run = WithoutLayer | WithoutChannels


def without_channels(channels: Channels, gone: Collection[int]) -> WithoutChannels:
    """Return the run without ``gone``, classes of ``channels``; it starts at the outputs if nobody reads them."""
    goes = channels.flagged(gone)
    readers = {read.node for read in reads_of(channels) if any(goes[classes].any() for classes in read.classes)}
    nodes = list(channels.graph_module.graph.nodes)
    return WithoutChannels(next((node for node in nodes if node in readers), nodes[-1]), frozenset(gone))


class Runs(Running):
    """Runs the graph of ``channels``, as it is and without each of some things."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels, self._zeroed)
        self._channels = channels
        self._nodes = list(self.graph.nodes)
        self._goes: Any = None  # of a run without channels: which go, by class
        self._masks: dict[tuple[WithoutChannels, int], torch.Tensor | None] = {}
        self._run: WithoutChannels | None = None
        self._may_write = any(is_in_place(node) or is_foreign(node) for node in self._nodes)

    def whole(self, inputs: Sequence[Any]) -> Any:
        """Return what the graph returns for ``inputs``, in the mode that it is in."""
        with keeping_state(self._channels.graph_module):
            return self.run(*copy_tensors(tuple(inputs)) if self._may_write else inputs)

    def without_each(self, inputs: Sequence[Any], runs: Collection[Run], tell: Callable[[Run, Any], None]) -> None:
        """Tell what the graph returns for ``inputs`` in each of ``runs``, in the order in which these start."""
        starting: defaultdict[fx.Node, list[Run]] = defaultdict(list)
        for run in runs:
            starting[run.start].append(run)
        with keeping_state(self._channels.graph_module), autocast_kept():
            self.begin(*copy_tensors(tuple(inputs)) if self._may_write else inputs)
            for index, node in enumerate(self._nodes):
                for run in starting.pop(node, ()):
                    tell(run, self._rest(index, run))
                if not starting:
                    return
                self.step(node)

    def _rest(self, index: int, run: Run) -> Any:
        """Return what the graph returns where ``run`` starts at the node of that number; ``env`` stays as it is."""
        known = self.env
        self.env = copy_tensors(dict(known)) if self._may_write else dict(known)
        self._begin_run(run)
        try:
            with keeping_state(self._channels.graph_module):
                for node in self._nodes[index:]:
                    self.step(node)
            return self.returned
        finally:
            self.env, self._run, self._goes = known, None, None

    def _begin_run(self, run: Run) -> None:
        if isinstance(run, WithoutLayer):
            value = self.env[run.source]
            self.env.update(dict.fromkeys(run.nodes))
            self.env[run.target] = value if run.factor == 1 else value * run.factor
        else:
            self._run, self._goes = run, self._channels.flagged(run.gone)

    def _zeroed(self, read: Read, value: torch.Tensor) -> torch.Tensor:
        """Return ``value`` with zeros where it is of channels that go."""
        if self._run is None or self._goes is None:
            return value
        key = self._run, id(read)
        if key not in self._masks:
            goes = np.any([self._goes[classes] for classes in read.classes], axis=0)
            shape = [-1 if axis == read.axis else 1 for axis in range(value.dim())]
            self._masks[key] = torch.from_numpy(goes).view(shape).to(value.device) if goes.any() else None
        mask = self._masks[key]
        return value if mask is None else value.masked_fill(mask, 0)
