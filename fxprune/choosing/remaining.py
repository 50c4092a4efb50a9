"""What is left of a graph's MACs, parameters and time without some of its layers and channels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from torch import fx

from fxprune.choosing.cost_terms import NO_NODES, Nodes
from fxprune.choosing.graph_costs import Cost, GraphCosts, inside_opaque, total
from fxprune.choosing.sites import ChannelSite
from fxprune.choosing.time_terms import fit_of
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.parameter_holders import Holders
from fxprune.facts.ranges import bounds_of_values
from fxprune.gates.channel_gate import ChannelScale
from fxprune.ir.nodes import graphs_of
from fxprune.ops.op import Bounds
from fxprune.structures.channel_chunk import Chunk, classes_of_gates
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import Array
from fxprune.structures.gated_layers import Gate, gates_of
from fxprune.structures.idle_activations import idle_without

Site = Gate | Chunk
"""What may go: a conv, a branch, or some channels of a group."""


class Remaining:
    """The costs of one graph, and of its regions, without any sites of them.

    Args:
        graph_module: a graph with gates, as it is now.
        latency: what says how long its ops take, where time counts; costs have no milliseconds otherwise.

    Attributes:
        layers: the gates that can be removed, by path.
        channels: those of channels, by path.
    """

    def __init__(self, graph_module: fx.GraphModule, *, latency: LatencyTable | None = None) -> None:
        holders = Holders(graph_module)
        self.graph_module, self.latency = graph_module, latency
        gates = gates_of(graph_module)
        self.layers = {gate.path: gate for gate in gates if gate.removable}
        self.channels = {gate.path: gate for gate in gates if isinstance(gate.module, ChannelScale)}
        regions = {gate.region for gate in self.channels.values()}
        self._graphs: dict[str, GraphCosts] = {}
        self._classes: dict[fx.Node, Array] = {}
        counted: set[int] = set()
        self._inside = inside_opaque(graph_module)
        for region, graph in graphs_of(graph_module):
            channels = Channels(graph, gated=True) if region in regions else None
            held = {key: one for key, one in holders.held(graph).items() if key not in counted}
            counted |= held.keys()
            self._graphs[region] = GraphCosts(graph, channels, held.values(), latency)
            self._classes |= {} if channels is None else classes_of_gates(channels)

        self._idle = {} if latency is None else _idle_without(self.layers.values())

    def refit(self, latency: LatencyTable) -> None:
        """Go on with another fit of the same times of ops."""
        self.latency = latency
        for costs in self._graphs.values():
            costs.refit(latency)

    def chunk(self, path: str, places: Sequence[int]) -> Chunk:
        """Return the classes at ``places`` of the gate of channels at ``path``."""
        gate = self.channels[path]
        return Chunk(gate, tuple(places), self._classes[gate.node][list(places)])

    def site(self, path: str) -> ChannelSite:
        """Return the gate of channels at ``path`` as what a criterion scores: what it says is by place."""
        gate = self.channels[path]
        classes = self._classes[gate.node]
        found = self._graphs[gate.region].channels
        assert found is not None
        return ChannelSite(path, gate.region, found, Group(path, classes, classes))

    def step(self, path: str) -> int:
        """Return how many channels of a group must go together to save time; 1 where that does not matter."""
        gate = self.channels[path]
        classes = self._classes[gate.node]
        return self._graphs[gate.region].step(classes) if classes.all() else 1

    def all_but(self, least: int) -> list[Site]:
        """Return all layers, and of each group all channels but ``least``."""
        chunks = [self.chunk(path, range(gate.width - least)) for path, gate in self.channels.items()]
        return [*self.layers.values(), *(one for one in chunks if one.places)]

    def joined_without(self, layer: Gate) -> frozenset[int]:
        """Return the classes of channels that go together once ``layer`` is removed: those of its input and output.

        None where they are the same, as around a branch.
        """
        return self._graphs[layer.region].joined_without(layer.node)

    def _nodes(self, removed: Iterable[Site]) -> Nodes:
        """Return the nodes that go, those of regions in what goes too."""
        gone = frozenset[fx.Node]().union(*(one.nodes | self._idle.get(one.path, NO_NODES) for one in removed))
        return gone.union(*(self._inside[node] for node in gone & self._inside.keys()))

    def left(self, removed: Sequence[Site]) -> Cost:
        """Return what is left without ``removed``."""
        gone = self._nodes(removed)
        parts = [costs.left(_classes(removed, region), gone) for region, costs in self._graphs.items()]
        return total(parts)

    def milliseconds(self, removed: Sequence[Site]) -> float:
        """Return what the whole network takes without ``removed``, as predicted; there is a ``latency``."""
        assert self.latency is not None
        return fit_of(self.latency)[0] + self.left(removed).milliseconds

    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, Cost]:
        """Return by path what each candidate saves once ``removed`` is gone already."""
        gone = self._nodes(removed)
        classes = {region: _classes(removed, region) for region in self._graphs}
        return {one.path: self._saved_by(one, gone, classes) for one in candidates}

    def _saved_by(self, one: Site, gone: Nodes, classes: Mapping[str, set[int]]) -> Cost:
        nodes = self._nodes([one])
        regions = {node.graph for node in nodes} if nodes else set()
        parts = [
            costs.saved(_classes([one], region), nodes, frozenset(classes[region]), gone)
            for region, costs in self._graphs.items()
            if region == one.region or (len(regions) > 1 and costs.graph in regions)
        ]
        return total(parts)


def _idle_without(layers: Iterable[Gate]) -> dict[str, Nodes]:
    """Return by path the activations that an emitted network has not without each of ``layers``."""
    bounds: dict[fx.Graph, dict[fx.Node, Bounds]] = {}
    found = {}
    for layer in layers:
        graph, source = layer.node.graph, layer.node.args[0]
        assert isinstance(source, fx.Node)
        if graph not in bounds:
            assert graph.owning_module is not None
            bounds[graph] = bounds_of_values(graph.owning_module)
        found[layer.path] = idle_without(layer.node, source, bounds[graph])
    return found


def _classes(removed: Iterable[Site], region: str) -> set[int]:
    chunks = [one.classes for one in removed if isinstance(one, Chunk) and one.region == region]
    return set(np.concatenate(chunks).tolist()) - {0} if chunks else set()
