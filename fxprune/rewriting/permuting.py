"""Channels put into another order, in all that makes, holds and reads them: the same function.

W2 relu(norm(W1 x))   ->   W2[:, order] relu(norm[order](W1[order] x))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.gates.base import Gated
from fxprune.ir.kept_channels import KeptPlaces, note_kept
from fxprune.ir.node_targets import attribute, set_attribute, set_buffer
from fxprune.ir.nodes import called_modules
from fxprune.ir.weight_blocks import move_blocks
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.values import Value
from fxprune.weights.slicing import narrowed, with_tensors


class Permutation:
    """New places of some classes of channels; those of one group must be movable as a whole.

    Args:
        channels: of the graph that is edited (see :class:`fxprune.structures.partitions.movable.Movable`).
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self._rank = np.arange(len(channels.labels), dtype=np.int64)
        self._moved = np.zeros(len(channels.labels), dtype=bool)
        self._places: dict[int, Mapping[int, torch.Tensor]] = {}  # of each tensor that changes, by its identity

    def move(self, classes: Array, blocks: Array) -> None:
        """Have ``classes``, in the order in which they are made, be sorted by the numbers in ``blocks``."""
        order = np.argsort(blocks, kind="stable")
        self._rank[classes[order]] = np.arange(len(classes))
        self._moved[classes] = bool((order != np.arange(len(order))).any())

    def is_moved(self, classes: Array) -> bool:
        """Say whether ``classes`` have new places."""
        return bool(self._moved[classes].any())

    def order(self, labels: Array) -> Array | None:
        """Return which place of an axis with these labels comes first, second, and so on; None if all stay."""
        classes = self.channels.class_of[labels]
        return np.argsort(self._rank[classes], kind="stable") if self.is_moved(classes) else None

    def apply(self) -> list[fx.Node]:
        """Move the rows, columns and entries of all tensors; return the calls of layers that are other ones now."""
        if not self._moved.any():
            return []
        self._note()
        tensors = self._tensors()
        graph_module = self.channels.graph_module
        for node in graph_module.graph.find_nodes(op="get_attr"):
            new = tensors.get(id(attribute(graph_module, str(node.target))))
            if new is not None:
                put = set_attribute if isinstance(new, nn.Parameter) else set_buffer
                put(graph_module, str(node.target), new)
        return self._replace_layers(tensors)

    def _tensors(self) -> dict[int, torch.Tensor]:
        """Return the tensors that change, by the identity of what they were."""
        found = {}
        for record in self.channels.walk.records:
            orders = {axis: self.order(vectors[0]) for axis, vectors in record.axes.items() if vectors}
            places = {axis: torch.from_numpy(one) for axis, one in orders.items() if one is not None}
            if places:
                found[id(record.tensor)] = narrowed(record.tensor, places)
                self._places[id(record.tensor)] = places
        return found

    def _replace_layers(self, tensors: Mapping[int, torch.Tensor]) -> list[fx.Node]:
        made: dict[int, tuple[Any, nn.Module]] = {}  # what it was, so that its id is no other's
        told = []
        for node, module in called_modules(self.channels.graph_module).items():
            own = {**module._parameters, **module._buffers}
            new = {name: tensors[id(one)] for name, one in own.items() if id(one) in tensors}
            if not new or isinstance(module, Gated):
                continue
            if id(module) not in made:
                made[id(module)] = module, with_tensors(module, new)
            set_attribute(self.channels.graph_module, str(node.target), made[id(module)][1])
            move_blocks(node, self._places.get(id(module._parameters.get("weight")), {}))
            told.append(node)
        return told

    def _note(self) -> None:
        """Note which places of the traced values stand where."""
        for node, value in self.channels.walk.values.items():
            if not isinstance(value, Value):
                continue
            left = {}
            for layer in value.layers:
                order = self.order(layer.labels) if len(layer.axes) == 1 else None
                if order is not None:
                    left[layer.axes[0]] = KeptPlaces(order, len(order))
            note_kept(node, left)
