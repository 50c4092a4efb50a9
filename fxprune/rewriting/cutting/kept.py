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
        classes = labels.find(np.arange(len(labels), dtype=np.int64))
        self.gone = np.isin(classes, np.fromiter(gone, dtype=np.int64))
        self.gone[NONE] = False

    def along(self, value: Value, axis: int) -> Mask | None:
        """Return which places of an axis stay; None if all do."""
        return self.of_vectors(self.walk.along(value, axis))

    def of_vectors(self, vectors: Iterable[Array]) -> Mask | None:
        """Return which places of an axis with these labels stay; None if all do."""
        gone = None
        for one in vectors:
            own = self.gone[one]
            gone = own if gone is None else gone | own
        return None if gone is None or not gone.any() else ~gone

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape of what is left of a value."""
        sizes = list(value.shape)
        for axis in {axis for layer in value.layers for axis in layer.axes}:
            mask = self.along(value, axis)
            if mask is not None:
                sizes[axis] = int(mask.sum())
        return tuple(sizes)

    def value(self, value: Value) -> Value:
        """Return what is left of a value, with the labels that stay."""
        masks = {axis: self.along(value, axis) for axis in range(len(value.shape))}
        layers = []
        for layer in value.layers:
            labels = layer.labels
            for place, axis in enumerate(layer.axes):
                mask = masks[axis]
                if mask is not None:
                    labels = labels.compress(mask, axis=place)
            layers.append(Layer(layer.axes, labels))
        return Value(self.shape(value), tuple(layers))

    def of(self, node: fx.Node) -> Any:
        """Return what is left of what ``node`` computes: a Value, a nest of them, None."""
        return map_values(self.value, self.walk.value(node))
