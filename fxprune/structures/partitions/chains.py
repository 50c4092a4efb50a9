"""Chains of linear layers between which nothing mixes features: what can be split into partitions, and what not.

    conv -> norm -> flatten -> fc1 -> relu -> dropout -> fc2 -> relu -> fc3      a chain of fc1, fc2, fc3

Block b of fc1's outputs is all that block b of fc2 reads, and so on. Features enter fc1 by channels: all places of a
channel of the conv behind the flatten go into one block. The last layer is split by its
inputs: its parts are added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.ops.call import Call
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.partitions.movable import Movable, in_order, in_order_of_making, units

Flags = NDArray[np.bool_]
_FUNCTION = "its weight is not a layer's: apply freeze-weights first"


@dataclass(frozen=True, eq=False)
class Chain:
    """Linear layers, each of which alone reads what the one before computes.

    Attributes:
        nodes: their calls, two at least; the last one is split by its inputs.
        layers: what they call.
        entry: which unit each input of the first is in: what enters one block together.
        enters_by: the path of the layer whose channels these units are; "" where features enter one by one.
    """

    nodes: tuple[fx.Node, ...]
    layers: tuple[nn.Linear, ...]
    entry: Array
    enters_by: str

    @property
    def widths(self) -> tuple[int, ...]:
        """How many units there are to share out: those that enter, and the features between two layers."""
        return (int(self.entry.max()) + 1, *(one.out_features for one in self.layers[:-1]))

    @property
    def paths(self) -> tuple[str, ...]:
        """Where its layers are."""
        return tuple(str(node.target) for node in self.nodes)


class Chains(NamedTuple):
    """The chains of a graph, and why each other linear layer is in none, by its call."""

    chains: tuple[Chain, ...]
    reasons: dict[fx.Node, str]


def find_chains(channels: Channels) -> Chains:
    """Return the chains of a graph, in its order, and a reason for every linear layer that is in none."""
    finder = _Finder(channels)
    return Chains(tuple(finder.chains()), finder.reasons)


class _Finder:
    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.movable = Movable(channels)
        self.reasons: dict[fx.Node, str] = {}
        self._layers: dict[fx.Node, nn.Linear] = {}
        self._readers = {one.node: one for one in channels.walk.readers}
        self._lacks: dict[fx.Node, str] = {}
        self._find_layers()

    def _find_layers(self) -> None:
        """Note the layers that may be in a chain, and why others may not."""
        sites = CallSites(self.channels.graph_module)
        for node in self.channels.graph_module.graph.nodes:
            call = Call(node)
            if call.kind != "linear":
                continue
            obstacle = _FUNCTION if call.module is None else own_module(call.module, (nn.Linear,), sites)
            if obstacle is None and call.input is None:
                obstacle = "its input is not a graph value"
            if obstacle is None:
                self._layers[node] = call.module
            else:
                self.reasons[node] = obstacle

    def chains(self) -> Iterator[Chain]:
        """Yield the chains; all other layers have a reason then."""
        behind = {node: self._reader_of(node) for node in self._layers}
        read = {one for one in behind.values() if one is not None}
        for node in self._layers:
            if node in read:
                continue
            nodes = [node]
            while (following := behind[nodes[-1]]) is not None:
                nodes.append(following)
            if len(nodes) > 1:
                yield self._chain(nodes)
            else:
                self.reasons[node] = self._lacks[node]

    def _chain(self, nodes: list[fx.Node]) -> Chain:
        layers = tuple(self._layers[node] for node in nodes)
        columns = self._columns(nodes[0])
        if columns is not None and self._are_joined(columns):
            columns = None
        entry = units(columns, layers[0].in_features)
        by_unit = columns is not None and int(entry.max()) + 1 == len(np.unique(columns))
        made_by = self.channels.name_of(int(columns[0])) if by_unit and columns is not None else ""
        return Chain(tuple(nodes), layers, entry, made_by)

    def _are_joined(self, columns: Array) -> bool:
        """Say whether channels go with others of their layer that stand apart, as the same one of each group does."""
        path = self.channels.name_of(int(columns[0]))
        made = self.channels.outputs.get(path)
        if made is None:
            return False
        layer = self.channels.graph_module.get_submodule(path)
        count = getattr(layer, "out_channels", len(made))  # of a transposed conv rows are those of one group
        return len(np.unique(made)) < count and not in_order(columns, in_order_of_making(columns))

    def _columns(self, node: fx.Node) -> Array | None:
        """Return the class of each input of a layer; None if they have none, or several."""
        reader = self._readers.get(node)
        if reader is None or reader.weight is not self._layers[node].weight or len(reader.vectors) != 1:
            return None
        return self.channels.class_of[reader.vectors[0]]

    def _reader_of(self, node: fx.Node) -> fx.Node | None:
        """Return the layer that alone reads the features of ``node``, in their order; None, and why, if none does."""
        rows = self.channels.outputs.get(str(node.target))
        obstacle = "its features are no channels" if rows is None else self.movable.obstacle(rows)
        if obstacle is not None or rows is None:
            self._lacks[node] = f"nothing reads it feature by feature: {obstacle}"
            return None
        wanted = self.channels.flagged(rows.tolist())
        readers = [one for one in self.channels.walk.readers if self._meets(wanted, one.vectors)]
        others = self._other_makers(node, wanted)
        if others:
            self._lacks[node] = f"its features are those of {others[0]} too"
        elif len(readers) != 1:
            self._lacks[node] = f"{len(readers)} layers read it"
        elif readers[0].node not in self._layers:
            self._lacks[node] = f"{readers[0].node.name} reads it, which is no linear layer of its own"
        elif not np.array_equal(self._columns(readers[0].node), rows):  # type: ignore[arg-type]
            self._lacks[node] = f"{readers[0].node.name} reads it in another order"
        else:
            return readers[0].node
        return None

    def _other_makers(self, node: fx.Node, wanted: Flags) -> list[str]:
        """Return the paths of other layers whose outputs go together with those of ``node``."""
        paths = self.channels.outputs.items()
        return [path for path, classes in paths if path != str(node.target) and wanted[classes].any()]

    def _meets(self, wanted: Flags, vectors: tuple[Array, ...]) -> bool:
        return any(wanted[self.channels.class_of[one]].any() for one in vectors)
