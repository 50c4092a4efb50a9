"""What may go: a conv or a residual branch (a gate of its own), or the channels of one group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import fx

from fxprune.ir.nodes import graphs_of
from fxprune.structures.channels.groups import Channels, Group

Groups = Literal["within", "whole"]
Statistics = Literal["exact", "approximate"]


class Site(Protocol):
    """What may go: :class:`fxprune.structures.gated_layers.Gate` of width 1, or :class:`ChannelSite`."""

    @property
    def kind(self) -> str:
        """What goes: "conv", "branch", "channels"."""

    @property
    def path(self) -> str:
        """Where it is: the path of a gate, or of the first layer that makes the channels."""

    @property
    def region(self) -> str:
        """The graph that it is in, see :func:`fxprune.ir.nodes.graphs_of`."""

    @property
    def width(self) -> int:
        """How many can go, one by one: 1 for a layer."""


@dataclass(frozen=True, eq=False, repr=False)
class ChannelSite:
    """The channels of one group that can go; what is told of each is in the order of ``group.free``."""

    path: str
    region: str
    channels: Channels
    group: Group
    kind: str = field(default="channels", init=False)

    def __repr__(self) -> str:
        return f"ChannelSite({self.path!r}, width={self.width})"

    @property
    def width(self) -> int:
        """How many classes can go."""
        return len(self.group.free)


def channel_sites(
    graph_module: fx.GraphModule, *, groups: Groups = "within", statistics: Statistics = "exact"
) -> list[ChannelSite]:
    """Return the groups of a graph and of its regions of which channels can go, in graph order.

    Args:
        graph_module: the graph; sites are of it as it is now.
        groups: of grouped convs, of norms and of heads go the same channels "within" each, or "whole" ones.
        statistics: "approximate" lets layer and group norms lose channels.
    """
    return [
        site
        for region, graph in graphs_of(graph_module)
        for site in sites_of(
            Channels(graph, whole=groups == "whole", approximate=statistics == "approximate"), region
        )
    ]


def sites_of(channels: Channels, region: str = "") -> list[ChannelSite]:
    """Return the groups of one graph of which channels can go."""
    return [
        ChannelSite(f"{region}.{group.name}" if region else group.name, region, channels, group)
        for group in channels.groups
        if len(group.free)
    ]
