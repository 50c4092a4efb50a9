"""Some channels of one group, which close together while a network trains, as a layer does.

A chunk is to the scales of channels what a :class:`fxprune.structures.gated_layers.Gate` is to that of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from fxprune.gates.channel_gate import ChannelScale, ScaledAxis, ScaledColumns
from fxprune.ir.nodes import called_module
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.tensors import Vectors
from fxprune.structures.gated_layers import Gate, awake


@dataclass(frozen=True, eq=False)
class Chunk:
    """The classes at ``places`` of a gate of channels; ``classes`` are their labels in the gate's graph."""

    gate: Gate
    places: tuple[int, ...]
    classes: Array

    @property
    def path(self) -> str:
        """The path of the gate."""
        return self.gate.path

    @property
    def region(self) -> str:
        """That of the graph, see :func:`fxprune.ir.nodes.graphs_of`."""
        return self.gate.region

    @property
    def module(self) -> ChannelScale:
        """The scales of the group."""
        found = self.gate.module
        assert isinstance(found, ChannelScale)
        return found

    @property
    def nodes(self) -> frozenset[fx.Node]:
        """None: no node goes as a whole."""
        return frozenset()

    @contextmanager
    @torch.no_grad()
    def lowered(self, factor: float) -> Iterator[None]:
        """Inside, the scales are ``factor`` times what they are."""
        with awake(self.gate):
            self.module.gate[list(self.places)] *= factor
            yield


def classes_of_gates(channels: Channels) -> dict[fx.Node, Array]:
    """Return by the call of each gate of channels the class of each of its scales; 0 for one that nothing reads.

    Nor has what is read behind a barrier any. Of several, where a conv that tied them is gone, it is the last.
    """
    found: dict[fx.Node, Array] = {}
    for node, (places, classes) in columns_of_gates(channels).items():
        module = called_module(node)
        assert isinstance(module, ChannelScale)
        found[node] = np.zeros(module.width, dtype=np.int64)
        found[node][places] = classes
    return found


def columns_of_gates(channels: Channels) -> dict[fx.Node, tuple[Array, Array]]:
    """Return by the call of each gate of channels the columns that read it: the place of the scale, and the class."""
    found: dict[fx.Node, list[Array]] = {}
    for node in channels.graph_module.graph.find_nodes(op="call_module"):
        module = called_module(node)
        if isinstance(module, ChannelScale):
            found[node] = []
        elif isinstance(module, (ScaledColumns, ScaledAxis)):
            vectors = _vectors(channels, node, module)
            for vector, places in zip(vectors, module.index.cpu().numpy(), strict=True) if vectors else ():
                classes, first = channels.class_of[vector], 1
                for read in node.args[1:]:
                    assert isinstance(read, fx.Node)
                    scales = called_module(read)
                    assert isinstance(scales, ChannelScale)
                    mine = (places >= first) & (places < first + scales.width)
                    found[read].append(np.stack([places[mine] - first, classes[mine]]))
                    first += scales.width
    nothing = np.zeros((2, 0), dtype=np.int64)
    pairs = {node: np.concatenate([nothing, *parts], axis=1) for node, parts in found.items()}
    return {node: (places, classes) for node, (places, classes) in pairs.items()}


def _vectors(channels: Channels, node: fx.Node, module: ScaledColumns | ScaledAxis) -> Vectors:
    """Return the labels of the columns that ``module`` multiplies."""
    if isinstance(module, ScaledColumns):
        weight = module.layer.weight
        assert isinstance(weight, torch.Tensor)
        return channels.walk.records.of(weight).axes[module.axis]
    return channels.walk.along(channels.walk.value(node), module.axis)
