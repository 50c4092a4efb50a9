"""The gates of a graph that may have been cut since, by what they were before: paths, and places of channels.

gate of 16 channels, 0, 1 and 5 cut      ->      places 2, 3, 4, 6, ... of the gate as it is now
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx

from fxprune.choosing.remaining import Remaining, Site
from fxprune.choosing.sites import ChannelSite
from fxprune.gates.channel_gate import ChannelScale
from fxprune.gates.gate import ScaledLayer
from fxprune.structures.channels.running import Worth
from fxprune.structures.gated_layers import Gate, gates_of


class KeptSites:
    """What is left of the sites of an uncut graph.

    Args:
        whole: the costs of that graph.
        graph_module: what it is now: that graph, or one that was cut.
        cut: the places that each gate of channels lost, by path.

    Attributes:
        layers, channels: the gates by path, as they are trained now; in the place of one that went that of the uncut
            graph.
    """

    def __init__(self, whole: Remaining, graph_module: fx.GraphModule, cut: Mapping[str, Sequence[int]]) -> None:
        is_whole = graph_module is whole.graph_module
        self.graph_module = graph_module
        self._now = whole if is_whole else Remaining(graph_module)
        self._whole = whole
        gates = {gate.path: gate for gate in gates_of(graph_module)}
        self._gates = {path: gates.get(path, gate) for path, gate in {**whole.layers, **whole.channels}.items()}
        self._left = gates.keys()
        self.layers: dict[str, ScaledLayer] = {path: self._gates[path].module for path in whole.layers}
        self.channels = {path: _scales(self._gates[path]) for path in whole.channels}
        self._cut = cut
        self._places = {
            path: np.setdiff1d(np.arange(gate.width), np.array(cut.get(path, ()), dtype=np.int64))
            for path, gate in whole.channels.items()
        }

    def gate(self, path: str) -> Gate:
        """Return the gate at ``path`` as it is trained now."""
        return self._gates[path]

    @property
    def gates(self) -> list[Gate]:
        """All that can still be compared: of layers that can go, and of channels."""
        return [*self._now.layers.values(), *self._now.channels.values()]

    @property
    def scales_left(self) -> dict[str, ChannelScale]:
        """The gates of channels that are left, by path."""
        return {path: one for path, one in self.channels.items() if path in self._left}

    def is_left(self, site: Site) -> bool:
        """Say whether a site of the uncut graph is left, whole."""
        if isinstance(site, Gate):
            return site.path in self._now.layers
        return site.path in self._now.channels and bool(np.isin(site.places, self._places[site.path]).all())

    def now(self, site: Site) -> Site:
        """Return a site of the uncut graph as it is now."""
        if isinstance(site, Gate):
            return self._now.layers[site.path]
        return self._now.chunk(site.path, np.searchsorted(self._places[site.path], site.places).tolist())

    def channel_sites(self) -> list[ChannelSite]:
        """Return the gates of channels that are left, as criteria take them."""
        return [self._now.site(path) for path in self._now.channels]

    def channel_site(self, path: str) -> ChannelSite:
        """Return one of them."""
        return self._now.site(path)

    def by_place(self, path: str, worth: Worth | None) -> Worth:
        """Return what is said of the channels that are left, by place in the uncut graph; infinite for the others."""
        found = np.full(self._whole.channels[path].width, np.inf)
        if worth is not None:
            found[self._places[path]] = worth
        return found

    def write(self, path: str, scales: torch.Tensor) -> None:
        """Set the scales of the channels at ``path`` to those that they have in ``scales``, by place."""
        gate = self.channels[path].gate
        if path in self._left:
            gate.copy_(scales[torch.from_numpy(self._places[path])])

    def close(self, path: str, places: Sequence[int]) -> None:
        """Close the channels at ``places`` of the gate at ``path``, which are left."""
        self.channels[path].close_classes(np.searchsorted(self._places[path], places).tolist())

    def closed_channels(self) -> dict[str, list[int]]:
        """Return the places of the channels that are closed, those that were cut too, by the path of their gate."""
        closed = self.places({path: one.closed_classes for path, one in self.scales_left.items()})
        both = {path: sorted([*self._cut.get(path, ()), *closed.get(path, ())]) for path in self._whole.channels}
        return {path: places for path, places in both.items() if places}

    def places(self, masks: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
        """Return where each mask over the channels that are left holds, of those that hold anywhere.

        One read for all.
        """
        if not masks:
            return {}
        held = torch.cat([*masks.values()]).cpu().numpy()
        parts = np.split(held, np.cumsum([len(mask) for mask in masks.values()])[:-1])
        found = {path: self._places[path][part].tolist() for path, part in zip(masks, parts, strict=True)}
        return {path: places for path, places in found.items() if places}


def _scales(gate: Gate) -> ChannelScale:
    assert isinstance(gate.module, ChannelScale)
    return gate.module
