"""What is kept of each value once some channels are gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.structures.channels.labels import NONE, Array
from fxprune.structures.channels.values import Layer, Value, map_values
from fxprune.structures.channels.walk import Walk

Mask = NDArray[np.bool_]


class Kept:
    """What is left of a graph whose labels ``walk`` knows, without the classes ``gone``."""

    def __init__(self, walk: Walk, gone: Iterable[int]) -> None:
        labels = walk.labels
        self.walk = walk
        self.gone = np.isin(labels.classes, np.fromiter(gone, dtype=np.int64))
        self.gone[NONE] = False
        self._masks: dict[tuple[int, ...], tuple[tuple[Array, ...], Mask | None]] = {}
        self._of: dict[fx.Node, Any] = {}
        self._left: dict[tuple[int, int], tuple[Array, Mask, Array]] = {}

    def along(self, value: Value, axis: int) -> Mask | None:
        """Return which places of an axis stay; None if all do."""
        return self.of_vectors(self.walk.along(value, axis))

    def of_vectors(self, vectors: tuple[Array, ...]) -> Mask | None:
        """Return which places of an axis with these labels stay; None if all do."""
        if not vectors:
            return None
        key = tuple([id(one) for one in vectors])
        if key not in self._masks:
            gone = self.gone[vectors[0]]
            for one in vectors[1:]:
                gone = gone | self.gone[one]
            self._masks[key] = vectors, (~gone if gone.any() else None)
        return self._masks[key][1]

    def labels_left(self, labels: Array, mask: Mask | None) -> Array:
        """Return the labels at the places of an axis that stay: the same array whenever it is asked for."""
        if mask is None:
            return labels
        key = id(labels), id(mask)
        if key not in self._left:
            self._left[key] = labels, mask, labels[mask]
        return self._left[key][2]

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape of what is left of a value."""
        if not value.layers:
            return value.shape
        sizes = list(value.shape)
        for axis in {axis for layer in value.layers for axis in layer.axes}:
            mask = self.along(value, axis)
            if mask is not None:
                sizes[axis] = int(np.count_nonzero(mask))
        return tuple(sizes)

    def value(self, value: Value) -> Value:
        """Return what is left of a value, with the labels that stay."""
        if not value.layers:
            return value
        return Value(self.shape(value), tuple(self._layer(one, value) for one in value.layers))

    def _layer(self, layer: Layer, value: Value) -> Layer:
        masks = [self.along(value, axis) for axis in layer.axes]
        if len(masks) == 1:
            return Layer(layer.axes, self.labels_left(layer.labels, masks[0]))
        labels = layer.labels
        for place, mask in enumerate(masks):
            if mask is not None:
                labels = labels.compress(mask, axis=place)
        return Layer(layer.axes, labels)

    def of(self, node: fx.Node) -> Any:
        """Return what is left of what ``node`` computes: a Value, a nest of them, None."""
        if node not in self._of:
            self._of[node] = map_values(self.value, self.walk.value(node))
        return self._of[node]
