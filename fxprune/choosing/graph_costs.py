"""What one graph costs without some of its channels and nodes: sums of terms, each held by some nodes.

    conv(x; W), 16 of 64 rows and 8 of 32 columns gone   ->   (1 - 16/64) (1 - 8/32) of its MACs and parameters

What is computed by whom, and along which axes, is in one place for all that chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import fx, nn

from fxprune.choosing.channel_costs import macs_by_node
from fxprune.choosing.cost_terms import NO_NODES, Amounts, Axes, Nodes, Term, Terms
from fxprune.choosing.time_terms import TimeTerms
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.costs.macs import batch_size, node_macs
from fxprune.costs.parameter_holders import Holders
from fxprune.ir.module_tree import is_opaque, regions_in
from fxprune.ir.nodes import called_modules, graphs_of
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Vectors

Held = Iterable[tuple[nn.Parameter, Nodes]]


class Cost(NamedTuple):
    """MACs for one sample, parameters without those of scales, milliseconds beside those that any network takes."""

    macs: float = 0.0
    params: float = 0.0
    milliseconds: float = 0.0


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs, each of its kind."""
    return Cost(*map(sum, zip(*costs, strict=True)))


class GraphCosts:
    """The costs of one graph without any channels and nodes of it: what the cut graph has, exactly.

    Args:
        graph_module: the graph; the MACs of a region are those of all its calls.
        channels: its channels, if any of them may go.
        held: the parameters that count, each with the nodes that hold it; by default all that the graph holds.
        latency: what says how long its ops take, where that counts.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        channels: Channels | None = None,
        held: Held | None = None,
        latency: LatencyTable | None = None,
    ) -> None:
        self.graph, self.channels = graph_module.graph, channels
        self._axes = Axes(channels)
        held = Holders(graph_module).held(graph_module).values() if held is None else held
        macs, params = _macs(graph_module, channels), _params(channels, held)
        self._sums: dict[str, Terms] = {"macs": Terms(macs, self._axes), "params": Terms(params, self._axes)}
        if latency is not None:
            self._sums["milliseconds"] = TimeTerms(graph_module, latency, self._axes)
        self._axes.close()

    def left(self, classes: Collection[int] = (), gone: Nodes = NO_NODES) -> Cost:
        """Return the costs without these classes and nodes."""
        kept = self._axes.kept(frozenset(classes))
        return Cost(**{name: one.left(kept, gone) for name, one in self._sums.items()})

    def saved(
        self,
        classes: Collection[int] = (),
        nodes: Nodes = NO_NODES,
        gone_classes: frozenset[int] = frozenset(),
        gone: Nodes = NO_NODES,
    ) -> Cost:
        """Return what goes with ``nodes``, or with ``classes`` of one group, once others are gone."""
        kept = self._axes.kept(gone_classes)
        if nodes:
            return Cost(**{name: one.saved_with(nodes, kept, gone) for name, one in self._sums.items()})
        after = self._axes.kept_beside(gone_classes, classes)
        return Cost(**{name: one.saved_between(kept, after, gone) for name, one in self._sums.items()})

    def of_each(self, count: int) -> Mapping[str, Amounts]:
        """Return by cost what goes with each class alone, by class (of ``count``), to first order."""
        return {name: self._axes.by_class(one.of_axes(), count) for name, one in self._sums.items()}

    def step(self, classes: Array, multiple: int = 1) -> int:
        """Return in steps of how many classes a group saves time: a multiple of ``multiple``, or that itself."""
        times = self._sums.get("milliseconds")
        if not isinstance(times, TimeTerms):
            return multiple
        return times.step(self._axes.own(classes), len(classes), multiple)

    def refit(self, latency: LatencyTable) -> None:
        """Go on with another fit of the same times of ops."""
        times = self._sums.get("milliseconds")
        if isinstance(times, TimeTerms):
            times.refit(latency)

    def joined_without(self, node: fx.Node) -> frozenset[int]:
        """Return the classes of what ``node`` reads and computes; none where they are the same."""
        if self.channels is None:
            return frozenset()
        walk = self.channels.walk
        x, y = (walk.value(one) for one in (node.args[0], node))
        axis = len(y.shape) - 1 if len(y.shape) < 3 else 1
        sides = [frozenset(self.channels.class_of[one].tolist()) for v in (x, y) for one in walk.along(v, axis)]
        return frozenset().union(*sides) if len(set(sides)) > 1 else frozenset()


def _macs(graph_module: fx.GraphModule, channels: Channels | None) -> list[Term]:
    """Return the MACs of each node; what regions cost is told by their own graphs."""
    inside = inside_opaque(graph_module)
    if channels is not None:
        terms = macs_by_node(channels)
        return [
            (amount, nodes, _labelled(axes)) for nodes, (amount, axes) in terms if inside.keys().isdisjoint(nodes)
        ]
    batch = batch_size(graph_module)
    macs = {node: node_macs(node) for node in graph_module.graph.nodes if node not in inside}
    return [(float(count / batch), frozenset((node,)), ()) for node, count in macs.items() if count]


def _params(channels: Channels | None, held: Held) -> list[Term]:
    axes_of = {} if channels is None else {id(one.tensor): one.axes.values() for one in channels.walk.records}
    return [(one.numel(), nodes, _labelled(axes_of.get(id(one), ()))) for one, nodes in held]


def _labelled(axes: Iterable[Vectors]) -> list[Vectors]:
    return [one for one in axes if one]


def inside_opaque(graph_module: fx.GraphModule) -> dict[fx.Node, Nodes]:
    """Return the nodes of the regions inside each opaque module, those inside them too, by the node that calls it."""
    found: dict[fx.Node, Nodes] = {}
    for node, module in called_modules(graph_module).items():
        regions = regions_in(module) if is_opaque(module) else []
        if regions:
            graphs = [graph for _, region in regions for _, graph in graphs_of(region)]
            found[node] = frozenset(one for graph in graphs for one in graph.graph.nodes)
    return found
