"""How a graph stands while its gates shrink: what is closed, what that leaves, and what it saved.

All of it is told of the graph as it was made, whatever was cut of it since.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from fxprune.choosing.remaining import Remaining, Site
from fxprune.costs.latency.latency_table import table_of
from fxprune.costs.macs import total_macs, total_params
from fxprune.gates.gate import ScaledLayer
from fxprune.ir.nodes import TRACED_MACS
from fxprune.pruning.cutting_on import Cutting
from fxprune.pruning.kept_sites import KeptSites
from fxprune.pruning.predictions import Latency
from fxprune.pruning.split import Split, split_of


class _Left(NamedTuple):
    """What follows from the sites that are closed: the layers that go with them, and shares of what is left."""

    closed: tuple[list[str], dict[str, list[int]]]
    gone: list[str]
    macs: float
    params: float
    saved_by: Split


class Standing:
    """What shrinks the gates of a graph tells of it; :class:`fxprune.ProximalL1` says of its attributes."""

    latency: Latency | None = None
    graph_module: fx.GraphModule
    whole: fx.GraphModule
    _cutting: Cutting
    _known: _Left | None = None

    def _find_gates(self) -> None:
        """Note what the graph has: that of a copy is looked at anew, whose nodes are others."""
        self._remaining = Remaining(self.whole, latency=table_of(self.latency))
        self._found, self._groups = self._remaining.layers, self._remaining.channels
        self._find_kept()

    def _find_kept(self) -> None:
        """Note what is left of that in the graph that is trained."""
        self._sites = KeptSites(self._remaining, self.graph_module, self._cutting.channels)
        self.layers, self.channels = self._sites.layers, self._sites.channels

    @property
    def _modules(self) -> dict[str, ScaledLayer]:
        """The gates of layers and of channels."""
        return {**self.layers, **self.channels}

    def _left_now(self) -> str:
        total = len(self.layers) + sum(one.width for one in self._groups.values())
        zeros = len(self.zeros) + sum(map(len, self._cutting.channels.values()))
        zeros += sum(int((one.effective_scales == 0).sum()) for one in self._sites.scales_left.values())
        return (
            f"{zeros} of {total} scales are 0, {self.left:.1%} of the MACs and "
            f"{self.params_left:.1%} of the parameters are left"
        )

    @property
    def zeros(self) -> list[str]:
        """The paths of the layers whose scale is exactly zero."""
        return [path for path, layer in self.layers.items() if layer.effective_scale == 0]

    @property
    def closed(self) -> list[str]:
        """The paths of the layers that were closed: zero for good."""
        return [path for path, layer in self.layers.items() if layer.closed]

    @property
    def closed_channels(self) -> dict[str, list[int]]:
        """The places of the classes that were closed, zero for good, by the path of their group's gate."""
        return self._sites.closed_channels()

    @property
    def closed_in_turn(self) -> list[Site]:
        """What was closed: gates of layers, then the channels of each group."""
        chunks = [self._remaining.chunk(*one) for one in self.closed_channels.items()]
        return [*(self._found[path] for path in self.closed), *chunks]

    @property
    def gone(self) -> list[str]:
        """The paths of the layers that go with the closed ones: these, and what lies in closed branches."""
        return self._without_closed().gone

    @property
    def left(self) -> float:
        """The share of the traced graph's MACs that is left without the closed layers and channels."""
        return self._without_closed().macs

    @property
    def params_left(self) -> float:
        """The share of the graph's parameters, those of scales left out, that is left likewise."""
        return self._without_closed().params

    def _without_closed(self) -> _Left:
        """Return what follows, worked out anew only once another layer was closed: every step asks."""
        closed = self.closed, self.closed_channels
        if self._known is not None and self._known.closed == closed:
            return self._known
        macs, params = total_macs(self.whole), total_params(self.whole)
        shut: list[Site] = [self._found[path] for path in closed[0]]
        nodes: set[fx.Node] = set().union(*(layer.nodes for layer in shut))
        gone = [path for path, layer in self._found.items() if layer.node in nodes]
        left = self._remaining.left([*shut, *(self._remaining.chunk(*one) for one in closed[1].items())])
        traced = self.whole.meta.get(TRACED_MACS, macs)
        split = split_of(self._remaining, self.closed_in_turn, traced, params)
        self._known = _Left(closed, gone, left.macs / traced, left.params / max(1, params), split)
        return self._known

    @property
    def saved_by(self) -> Split:
        """The shares of the costs that went with closed "convs", "branches" and "channels", those that have gates.

        By kind and cost: {"branches": {"macs": 0.2, "params": 0.3}}; with "ms" where a model predicts times. Each
        site counts with what it saved beside those that had closed before it.
        """
        return self._without_closed().saved_by

    @property
    def widths(self) -> dict[str, int]:
        """How many channels of each group are left beside what was closed, by the path of its gate."""
        closed = self.closed_channels
        return {path: gate.width - len(closed.get(path, ())) for path, gate in self._groups.items()}

    def standing(self) -> tuple[int, ...]:
        """Return how many gates are open, how many are closed, and how many channels are."""
        gates = self._modules.values()
        closed = sum(map(len, self.closed_channels.values()))
        return sum(not one.resting for one in gates), sum(one.closed for one in gates), closed

    @property
    def sites_left(self) -> dict[str, tuple[int, int]]:
        """How many layers and channels with a gate are left beside what was closed, and how many there were."""
        widths = sum(one.width for one in self._groups.values())
        closed = sum(map(len, self.closed_channels.values()))
        left = {
            "layers": (len(self.layers) - len(self.gone), len(self.layers)),
            "channels": (widths - closed, widths),
        }
        return {kind: counts for kind, counts in left.items() if counts[1]}
