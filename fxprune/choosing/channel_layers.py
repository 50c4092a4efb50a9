"""Which layers make, read and carry the channels of each group of one graph, and at which nodes several are tied.

conv1 -> norm1 -> relu -> conv2     conv1 makes the channels, norm1 carries them, conv2 reads them
conv1(x) + conv2(x)                 both make the same channels: they are tied at the sum
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import fx

from fxprune.choosing.channel_costs import weight_of
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import NONE, Array


@dataclass
class Layers:
    """Of one group: layers by their paths, parameters of no layer by theirs, functions and ties by their nodes.

    ``makers`` have the classes of their output channels that are of the group, (channels,); ``parameters``, which are
    no weights of layers but have channels, as scales and embeddings of positions, likewise.
    """

    makers: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Array] = field(default_factory=dict)
    readers: dict[str, None] = field(default_factory=dict)
    carriers: dict[str, None] = field(default_factory=dict)
    ties: dict[str, None] = field(default_factory=dict)


def layers_by_group(channels: Channels, owner: Array) -> dict[int, Layers]:
    """Return the layers of each group, by its number, which ``owner`` says by label (0: of no group)."""
    return dict(_Collection(channels, owner).found)


def where(node: fx.Node) -> str:
    """Return what reports call ``node``: the path of the layer that it calls, or its name."""
    return str(node.target) if node.op == "call_module" else node.name


class _Collection:
    def __init__(self, channels: Channels, owner: Array) -> None:
        self._channels = channels
        self._owner = owner
        self._paths = _paths(channels.graph_module)
        weights = [weight_of(channels, node) for node in channels.graph_module.graph.nodes]
        known = {id(one.tensor) for one in weights if one is not None}
        alone = {id(one) for name, one in _tensors(channels.graph_module) if self._paths[id(one)] == name}
        self._alone = alone - known
        self._starts = np.array([first for first, _ in channels.labels.ranges], dtype=np.int64)
        self._ranges_of_layers: set[int] = set()
        self.found: defaultdict[int, Layers] = defaultdict(Layers)
        self._add_makers()
        self._add_readers()
        self._add_carriers()
        self._add_ties()

    def _groups(self, labels: Array) -> list[int]:
        owners = self._owner[labels]
        if owners[0] and (owners == owners[0]).all():
            return [int(owners[0])]
        return [one for one in np.unique(owners).tolist() if one]

    def _add_makers(self) -> None:
        seen = np.zeros(len(self._owner), dtype=bool)
        weights: set[int] = set()
        for tensor, axis in self._channels.rows:
            path, is_alone = self._paths.get(id(tensor)), id(tensor) in self._alone
            labels = self._channels.walk.records.of(tensor).axes[axis][0]
            if path is None or seen[labels[labels != NONE]].any():  # a depthwise conv has those of what it reads
                continue
            if not is_alone and id(tensor) in weights:  # the columns of a weight whose rule is not known
                continue
            seen[labels] = True
            weights.add(id(tensor))
            for group in self._groups(labels):
                layers = self.found[group]
                made = layers.parameters if is_alone else layers.makers
                made[path] = self._channels.class_of[labels[self._owner[labels] == group]]
            if not is_alone:
                self._ranges_of_layers.update(self._ranges(labels).tolist())

    def _add_readers(self) -> None:
        for reader in self._channels.walk.readers:
            for vector in reader.vectors:
                for group in self._groups(vector):
                    self.found[group].readers[where(reader.node)] = None

    def _add_carriers(self) -> None:
        for record in self._channels.walk.records:
            path = self._paths.get(id(record.tensor))
            if path is None:
                continue
            for vector in (one for vectors in record.axes.values() for one in vectors):
                for group in self._groups(vector):
                    layers = self.found[group]
                    if path not in layers.makers and path not in layers.readers:
                        layers.carriers[path] = None

    def _add_ties(self) -> None:
        """Name the nodes at which the channels of one layer, or several that are tied, meet those of others."""
        ties: Any = nx.utils.UnionFind()
        layers = dict.fromkeys(self._ranges_of_layers, True)  # by the representative of what is tied
        for first, second, reason in self._channels.labels.joins:
            pairs = np.unique(np.stack((self._ranges(first), self._ranges(second))), axis=1).T.tolist()
            for one, other in pairs:
                sides = ties[one], ties[other]
                if sides[0] == sides[1]:
                    continue
                met = [layers.get(side, False) for side in sides]
                ties.union(*sides)
                layers[ties[one]] = any(met)
                for group in self._groups(first) if all(met) else ():
                    self.found[group].ties[where(reason.node)] = None

    def _ranges(self, labels: Array) -> Array:
        """Return which of all sets of labels that were made at once each label is of."""
        return self._starts.searchsorted(labels, "right")


def _paths(graph_module: fx.GraphModule) -> dict[int, str]:
    """Return by the id of each parameter and buffer the path of its layer; its own where that is none."""
    called = {str(node.target) for node in graph_module.graph.find_nodes(op="call_module", sort=False)}
    return {id(tensor): _layer_of(name, called) for name, tensor in _tensors(graph_module)}


def _tensors(graph_module: fx.GraphModule) -> Iterator[tuple[str, torch.Tensor]]:
    yield from graph_module.named_parameters()
    yield from graph_module.named_buffers()


def _layer_of(name: str, called: set[str]) -> str:
    owner, _, own = name.rpartition(".")
    above = owner
    while above and above not in called:  # a layer inside a gate
        above = above.rpartition(".")[0]
    return above or (owner if own in ("weight", "bias") and owner else name)
