"""What is left of a graph's MACs and parameters without some of its layers and channels.

conv(x; W), 16 of 64 rows and 8 of 32 columns gone   ->   (1 - 16/64) (1 - 8/32) of its MACs and parameters
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.choosing.channel_costs import macs_by_node
from fxprune.choosing.sites import ChannelSite
from fxprune.costs.macs import batch_size, node_macs
from fxprune.costs.parameter_holders import Holders
from fxprune.gates.channel_gate import ChannelScale
from fxprune.ir.module_tree import is_opaque, regions_in
from fxprune.ir.nodes import called_modules, graphs_of
from fxprune.structures.channel_chunk import Chunk, classes_of_gates
from fxprune.structures.channels.groups import Channels, Group
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Vectors
from fxprune.structures.gated_layers import Gate, gates_of

Nodes = frozenset[fx.Node]
Site = Gate | Chunk
"""What may go: a conv, a branch, or some channels of a group."""


class Cost(NamedTuple):
    """MACs for one sample, and parameters without those of scales."""

    macs: float
    params: float


class Remaining:
    """The costs of one graph, and of its regions, without any sites of them.

    Args:
        graph_module: a graph with gates, as it is now.
        holders: who holds which parameter of the graph, where somebody asked already.

    Attributes:
        layers: the gates that can be removed, by path.
        channels: those of channels, by path.
    """

    def __init__(self, graph_module: fx.GraphModule, holders: Holders | None = None) -> None:
        holders = holders or Holders(graph_module)
        gates = gates_of(graph_module)
        self.layers = {gate.path: gate for gate in gates if gate.removable}
        self.channels = {gate.path: gate for gate in gates if isinstance(gate.module, ChannelScale)}
        regions = {gate.region for gate in self.channels.values()}
        self._graphs: dict[str, _Terms] = {}
        self._classes: dict[fx.Node, Array] = {}
        counted: set[int] = set()
        self._inside = _inside_opaque(graph_module)
        for region, graph in graphs_of(graph_module):
            channels = Channels(graph, gated=True) if region in regions else None
            held = {key: one for key, one in holders.held(graph).items() if key not in counted}
            counted |= held.keys()
            self._graphs[region] = _Terms(graph, channels, held.values())
            self._classes |= {} if channels is None else classes_of_gates(channels)

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
        gone = frozenset[fx.Node]().union(*(one.nodes for one in removed))
        return gone.union(*(self._inside[node] for node in gone & self._inside.keys()))

    def left(self, removed: Sequence[Site]) -> Cost:
        """Return what is left without ``removed``."""
        gone = self._nodes(removed)
        parts = [terms.left(_classes(removed, region), gone) for region, terms in self._graphs.items()]
        return Cost(sum(one.macs for one in parts), sum(one.params for one in parts))

    def saved(self, candidates: Collection[Site], removed: Sequence[Site]) -> dict[str, Cost]:
        """Return by path what each candidate saves once ``removed`` is gone already."""
        gone = self._nodes(removed)
        classes = {region: _classes(removed, region) for region in self._graphs}
        return {one.path: self._saved_by(one, gone, classes) for one in candidates}

    def _saved_by(self, one: Site, gone: Nodes, classes: Mapping[str, set[int]]) -> Cost:
        nodes = self._nodes([one])
        regions = {node.graph for node in nodes} if nodes else set()
        parts = [
            terms.saved(nodes, _classes([one], region), gone, frozenset(classes[region]))
            for region, terms in self._graphs.items()
            if region == one.region or (len(regions) > 1 and terms.graph in regions)
        ]
        return Cost(sum(part.macs for part in parts), sum(part.params for part in parts))


class _Terms:
    """What adds up to the costs of one graph: an amount, who holds it, and along which axes channels of it go."""

    def __init__(
        self, graph_module: fx.GraphModule, channels: Channels | None, held: Iterable[tuple[nn.Parameter, Nodes]]
    ) -> None:
        self._axes: dict[tuple[int, ...], int] = {}
        self._vectors: list[Array] = []  # the classes at each place of an axis, a row for each layer of labels
        self.graph = graph_module.graph
        self.channels = channels
        macs = _macs(graph_module, channels)
        axes_of = {} if channels is None else {id(r.tensor): r.axes.values() for r in channels.walk.records}
        params = [(one.numel(), nodes, axes_of.get(id(one), ())) for one, nodes in held]
        self._amounts = [np.array([float(amount) for amount, *_ in terms]) for terms in (macs, params)]
        self._holders = [[nodes for _, nodes, _ in terms] for terms in (macs, params)]
        self._along = [self._padded([self._numbers(axes) for *_, axes in terms]) for terms in (macs, params)]
        self._whole = np.ones(len(self._vectors) + 1)
        self._last = frozenset[int](), self._whole
        self._axes_of: dict[int, Sequence[int]] = {}
        self._held_at: list[dict[fx.Node, list[int]]] = [{}, {}]  # the terms of each node
        for held_at, holders in zip(self._held_at, self._holders, strict=True):
            for index, nodes in enumerate(holders):
                for node in nodes:
                    held_at.setdefault(node, []).append(index)

    def _numbers(self, axes: Iterable[Vectors]) -> list[int]:
        found = []
        for vectors in axes:
            if vectors:
                assert self.channels is not None
                key = tuple(map(id, vectors))  # held by the analysis
                if key not in self._axes:
                    self._axes[key] = len(self._vectors)
                    self._vectors.append(np.stack([self.channels.class_of[one] for one in vectors]))
                found.append(self._axes[key])
        return found

    def _padded(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return the numbers of axes of each term, (terms, axes); in free places that of one that loses nothing."""
        width = max([1, *map(len, rows)])
        return np.array([[*row, *[-1] * (width - len(row))] for row in rows], dtype=np.int64).reshape(-1, width)

    def left(self, classes: Collection[int], gone: Nodes) -> Cost:
        """Return the costs without these classes and nodes."""
        kept = self._kept(frozenset(classes))
        parts = []
        for amounts, holders, along in zip(self._amounts, self._holders, self._along, strict=True):
            left = amounts * kept[along].prod(1)
            stays = [not nodes <= gone for nodes in holders] if gone else True
            parts.append(float((left * stays).sum()))
        return Cost(*parts)

    def saved(self, nodes: Nodes, classes: Collection[int], gone: Nodes, gone_classes: frozenset[int]) -> Cost:
        """Return what goes with ``nodes`` and ``classes`` once others are gone."""
        if not nodes:
            return self._saved_by_classes(classes, gone, gone_classes)
        kept = self._kept(gone_classes)
        parts = []
        for kind, (amounts, holders, along) in enumerate(zip(self._amounts, self._holders, self._along, strict=True)):
            found = sorted({index for node in nodes - gone for index in self._held_at[kind].get(node, ())})
            going = [index for index in found if holders[index] <= nodes | gone and not holders[index] <= gone]
            parts.append(float((amounts[going] * kept[along[going]].prod(1)).sum()))
        return Cost(*parts)

    def _saved_by_classes(self, classes: Collection[int], gone: Nodes, gone_classes: frozenset[int]) -> Cost:
        assert self.channels is not None
        before, goes = self._kept(gone_classes), self.channels.flagged(gone_classes | set(classes))
        after = before.copy()
        for axis in self._touched(next(iter(classes))):
            after[axis] = 1 - goes[self._vectors[axis]].any(0).mean()
        parts = []
        for amounts, holders, along in zip(self._amounts, self._holders, self._along, strict=True):
            left = amounts * (before[along].prod(1) - after[along].prod(1))
            stays = [not nodes <= gone for nodes in holders] if gone else True
            parts.append(float((left * stays).sum()))
        return Cost(*parts)

    def _touched(self, one: int) -> Sequence[int]:
        """Return the axes that have channels of the group of a class."""
        assert self.channels is not None
        if not self._axes_of:
            for group in self.channels.groups:
                member = self.channels.flagged(group.classes)
                axes = [axis for axis, vectors in enumerate(self._vectors) if member[vectors].any()]
                self._axes_of |= dict.fromkeys(group.classes.tolist(), axes)
        return self._axes_of.get(one, range(len(self._vectors)))

    def _kept(self, classes: frozenset[int]) -> NDArray[np.float64]:
        """Return the share of each axis that is left without ``classes``, and 1 behind them."""
        if not classes:
            return self._whole
        if self._last[0] != classes:
            assert self.channels is not None
            goes = self.channels.flagged(classes)
            self._last = classes, np.array([1 - goes[one].any(0).mean() for one in self._vectors] + [1.0])
        return self._last[1]

    def joined_without(self, node: fx.Node) -> frozenset[int]:
        """See :meth:`Remaining.joined_without`."""
        if self.channels is None:
            return frozenset()
        walk = self.channels.walk
        x, y = (walk.value(one) for one in (node.args[0], node))
        axis = len(y.shape) - 1 if len(y.shape) < 3 else 1
        sides = [frozenset(self.channels.class_of[one].tolist()) for v in (x, y) for one in walk.along(v, axis)]
        return frozenset().union(*sides) if len(set(sides)) > 1 else frozenset()


def _macs(graph_module: fx.GraphModule, channels: Channels | None) -> list[tuple[float, Nodes, Iterable[Vectors]]]:
    if channels is not None:
        inside = _inside_opaque(graph_module)
        terms = macs_by_node(channels)
        return [(amount, nodes, axes) for nodes, (amount, axes) in terms if inside.keys().isdisjoint(nodes)]
    batch = batch_size(graph_module)
    inside = _inside_opaque(graph_module)  # what regions cost is told by their own graphs
    macs = {node: node_macs(node) for node in graph_module.graph.nodes if node not in inside}
    return [(float(count / batch), frozenset((node,)), ()) for node, count in macs.items() if count]


def _inside_opaque(graph_module: fx.GraphModule) -> dict[fx.Node, Nodes]:
    """Return the nodes of the regions inside each opaque module, those inside them too, by the node that calls it."""
    found: dict[fx.Node, Nodes] = {}
    for node, module in called_modules(graph_module).items():
        regions = regions_in(module) if is_opaque(module) else []
        if regions:
            graphs = [graph for _, region in regions for _, graph in graphs_of(region)]
            found[node] = frozenset(one for graph in graphs for one in graph.graph.nodes)
    return found


def _classes(removed: Iterable[Site], region: str) -> set[int]:
    chunks = [one.classes for one in removed if isinstance(one, Chunk) and one.region == region]
    return set(np.concatenate(chunks).tolist()) - {0} if chunks else set()
