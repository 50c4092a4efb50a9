"""What one graph costs without some of its channels and nodes: sums of terms, each held by some nodes.

    conv(x; W), 16 of 64 rows and 8 of 32 columns gone   ->   (1 - 16/64) (1 - 8/32) of its MACs and parameters

A term goes when all nodes that hold it have gone; of what stays, the share of each of its axes that is kept says how
much. What is computed by whom, and along which axes, is in one place for all that chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.choosing.channel_costs import macs_by_node
from fxprune.costs.macs import batch_size, node_macs
from fxprune.costs.parameter_holders import Holders
from fxprune.ir.module_tree import is_opaque, regions_in
from fxprune.ir.nodes import called_modules, graphs_of
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Vectors

Amounts = NDArray[np.float64]
Nodes = frozenset[fx.Node]
Term = tuple[float, Nodes, Iterable[Vectors]]
"""An amount, the nodes that hold it, and the labels along each of its axes."""
Held = Iterable[tuple[nn.Parameter, Nodes]]
_NO_NODES: Nodes = frozenset()


class Cost(NamedTuple):
    """MACs for one sample, and parameters without those of scales."""

    macs: float = 0.0
    params: float = 0.0


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs, each of its kind."""
    return Cost(*map(sum, zip(*costs, strict=True)))


class GraphCosts:
    """The costs of one graph without any channels and nodes of it: what the cut graph has, exactly.

    Args:
        graph_module: the graph; the MACs of a region are those of all its calls.
        channels: its channels, if any of them may go.
        held: the parameters that count, each with the nodes that hold it; by default all that the graph holds.
    """

    def __init__(
        self, graph_module: fx.GraphModule, channels: Channels | None = None, held: Held | None = None
    ) -> None:
        self.graph, self.channels = graph_module.graph, channels
        self._axes = _Axes(channels)
        held = Holders(graph_module).held(graph_module).values() if held is None else held
        macs, params = _macs(graph_module, channels), _params(channels, held)
        self._sums: Mapping[str, _Sum] = {"macs": _Sum(macs, self._axes), "params": _Sum(params, self._axes)}
        self._axes.close()

    def left(self, classes: Collection[int] = (), gone: Nodes = _NO_NODES) -> Cost:
        """Return the costs without these classes and nodes."""
        kept = self._axes.kept(frozenset(classes))
        return Cost(**{name: one.left(kept, gone) for name, one in self._sums.items()})

    def saved(
        self,
        classes: Collection[int] = (),
        nodes: Nodes = _NO_NODES,
        gone_classes: frozenset[int] = frozenset(),
        gone: Nodes = _NO_NODES,
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

    def joined_without(self, node: fx.Node) -> frozenset[int]:
        """Return the classes of what ``node`` reads and computes; none where they are the same."""
        if self.channels is None:
            return frozenset()
        walk = self.channels.walk
        x, y = (walk.value(one) for one in (node.args[0], node))
        axis = len(y.shape) - 1 if len(y.shape) < 3 else 1
        sides = [frozenset(self.channels.class_of[one].tolist()) for v in (x, y) for one in walk.along(v, axis)]
        return frozenset().union(*sides) if len(set(sides)) > 1 else frozenset()


class _Axes:
    """The distinct axes of all terms, numbered, and the share of each that is left; behind them 1, at -1."""

    def __init__(self, channels: Channels | None) -> None:
        self._channels = channels
        self._numbers: dict[tuple[int, ...], int] = {}
        self._classes: list[Array] = []  # at each place of an axis, a row for each layer of labels

    def numbers(self, axes: Iterable[Vectors]) -> list[int]:
        """Return the numbers of the axes that have labels."""
        return [self._number(vectors) for vectors in axes if vectors]

    def _number(self, vectors: Vectors) -> int:
        assert self._channels is not None
        key = tuple(map(id, vectors))  # held by the analysis
        if key not in self._numbers:
            self._numbers[key] = len(self._classes)
            self._classes.append(np.stack([self._channels.class_of[one] for one in vectors]))
        return self._numbers[key]

    def close(self) -> None:
        """Take note that all axes are known."""
        self._whole = np.ones(len(self._classes) + 1)
        self._last = frozenset[int](), self._whole
        self._of_group: dict[int, Sequence[int]] = {}

    def kept(self, classes: frozenset[int]) -> Amounts:
        """Return the share of each axis that is left without ``classes``."""
        if not classes:
            return self._whole
        if self._last[0] != classes:
            assert self._channels is not None
            goes = self._channels.flagged(classes)
            self._last = classes, np.array([1 - goes[one].any(0).mean() for one in self._classes] + [1.0])
        return self._last[1]

    def kept_beside(self, gone: frozenset[int], classes: Collection[int]) -> Amounts:
        """Return the same without ``classes`` too, all of them of one group."""
        assert self._channels is not None
        goes = self._channels.flagged(gone | set(classes))
        found = self.kept(gone).copy()
        for axis in self._touched(next(iter(classes))):
            found[axis] = 1 - goes[self._classes[axis]].any(0).mean()
        return found

    def _touched(self, one: int) -> Sequence[int]:
        """Return the axes that have channels of the group of a class."""
        assert self._channels is not None
        if not self._of_group:
            for group in self._channels.groups:
                member = self._channels.flagged(group.classes)
                axes = [axis for axis, classes in enumerate(self._classes) if member[classes].any()]
                self._of_group |= dict.fromkeys(group.classes.tolist(), axes)
        return self._of_group.get(one, range(len(self._classes)))

    def by_class(self, of_axes: Mapping[int, float], count: int) -> Amounts:
        """Return by class the sum of what is lost with each axis, a place of it at a time."""
        found = np.zeros(count)
        for axis, amount in of_axes.items():
            classes = self._classes[axis]
            np.add.at(found, classes, amount / classes.shape[1])
        return found


class _Sum:
    """One cost: of each term the product of its amount with the shares of its axes that are kept."""

    def __init__(self, terms: Iterable[Term], axes: _Axes) -> None:
        known = [(amount, nodes, axes.numbers(along)) for amount, nodes, along in terms]
        self._amounts = np.array([float(amount) for amount, *_ in known])
        self._holders = [nodes for _, nodes, _ in known]
        self._along = _padded([numbers for *_, numbers in known])
        self._of_node: dict[fx.Node, list[int]] = {}
        for index, nodes in enumerate(self._holders):
            for node in nodes:
                self._of_node.setdefault(node, []).append(index)
        self._last: tuple[Nodes, Amounts] = _NO_NODES, np.ones(len(known))

    def _values(self, kept: Amounts, terms: Sequence[int] | slice = slice(None)) -> Amounts:
        """Return what each of ``terms`` comes to where so much of each axis is kept."""
        found: Amounts = self._amounts[terms] * kept[self._along[terms]].prod(1)
        return found

    def _stays(self, gone: Nodes) -> Amounts:
        """Return 1 for each term that a node which is not ``gone`` holds, 0 for the others."""
        if self._last[0] != gone:
            self._last = gone, np.array([not nodes <= gone for nodes in self._holders], dtype=float)
        return self._last[1]

    def left(self, kept: Amounts, gone: Nodes) -> float:
        """Return the sum without what is ``gone``."""
        return float((self._values(kept) * self._stays(gone)).sum())

    def saved_with(self, nodes: Nodes, kept: Amounts, gone: Nodes) -> float:
        """Return what goes with ``nodes``."""
        found = sorted({index for node in nodes - gone for index in self._of_node.get(node, ())})
        going = [index for index in found if self._holders[index] <= nodes | gone]
        return float(self._values(kept, going).sum())

    def saved_between(self, before: Amounts, after: Amounts, gone: Nodes) -> float:
        """Return what goes where less of the axes is kept."""
        return float(((self._values(before) - self._values(after)) * self._stays(gone)).sum())

    def of_axes(self) -> Mapping[int, float]:
        """Return what goes with each axis, to first order."""
        found: dict[int, float] = {}
        for amount, numbers in zip(self._amounts.tolist(), self._along.tolist(), strict=True):
            for number in numbers:
                if number >= 0:
                    found[number] = found.get(number, 0.0) + amount
        return found


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the numbers of axes of each term, (terms, axes); in free places that of one that loses nothing."""
    width = max([1, *map(len, rows)])
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], dtype=np.int64).reshape(-1, width)


def _macs(graph_module: fx.GraphModule, channels: Channels | None) -> list[Term]:
    """Return the MACs of each node; what regions cost is told by their own graphs."""
    inside = inside_opaque(graph_module)
    if channels is not None:
        terms = macs_by_node(channels)
        return [(amount, nodes, axes) for nodes, (amount, axes) in terms if inside.keys().isdisjoint(nodes)]
    batch = batch_size(graph_module)
    macs = {node: node_macs(node) for node in graph_module.graph.nodes if node not in inside}
    return [(float(count / batch), frozenset((node,)), ()) for node, count in macs.items() if count]


def _params(channels: Channels | None, held: Held) -> list[Term]:
    axes_of = {} if channels is None else {id(one.tensor): one.axes.values() for one in channels.walk.records}
    return [(one.numel(), nodes, axes_of.get(id(one), ())) for one, nodes in held]


def inside_opaque(graph_module: fx.GraphModule) -> dict[fx.Node, Nodes]:
    """Return the nodes of the regions inside each opaque module, those inside them too, by the node that calls it."""
    found: dict[fx.Node, Nodes] = {}
    for node, module in called_modules(graph_module).items():
        regions = regions_in(module) if is_opaque(module) else []
        if regions:
            graphs = [graph for _, region in regions for _, graph in graphs_of(region)]
            found[node] = frozenset(one for graph in graphs for one in graph.graph.nodes)
    return found
