"""Where the labels of a value are: along which of its axes they vary.

    Value((8, 64, 7, 7), (Layer((1,), rows),))      a conv's output: 64 labels along axis 1
    Value((8, 4, 16), (Layer((1, 2), ...),))        its channels as 4 groups of 16: a label for each of 4 x 16

An element has a label in each layer, and goes if one of them goes. The labels of a layer are the same along all other
axes, and along those of size 1 there are none: they join nothing. The axes of a layer are in the order in which one
would count its labels, the last one fastest; a permuted value has the same layers at other axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fxprune.structures.channels.labels import Array


class Layer(NamedTuple):
    """Labels that vary along ``axes`` of a value: an array of the sizes that these have."""

    axes: tuple[int, ...]
    labels: Array


class Value(NamedTuple):
    """The labels of one tensor."""

    shape: tuple[int, ...]
    layers: tuple[Layer, ...] = ()

    def along(self, axis: int) -> tuple[Array, ...]:
        """Return the labels of the layers that vary along ``axis`` alone."""
        return tuple(layer.labels for layer in self.layers if layer.axes == (axis,))

    def with_layers(self, layers: Iterable[Layer]) -> Value:
        """Return the same value with other labels."""
        return Value(self.shape, tuple(layers))


def value_along(shape: Sequence[int], axis: int, vectors: Iterable[Array]) -> Value:
    """Return a value with labels along one axis; without any if that has size 1."""
    return Value(tuple(shape), tuple(Layer((axis,), one) for one in vectors) if shape[axis] > 1 else ())


def varying(axes: Sequence[int], labels: Array) -> Layer | None:
    """Return the layer of ``labels`` without the axes along which they are all the same; None if no axis is left."""
    kept = list(axes)
    for axis in axes:
        place = kept.index(axis)
        first = labels.take([0], axis=place)
        if labels.shape[place] == 1 or np.array_equal(labels, np.broadcast_to(first, labels.shape)):
            labels = first.squeeze(place)
            kept.remove(axis)
    return Layer(tuple(kept), labels) if kept else None


def map_values(change: Callable[[Value], Any], nest: Any) -> Any:
    """Return a nest with ``change`` applied to every value in it."""
    if isinstance(nest, Value):
        return change(nest)
    if isinstance(nest, (tuple, list)):
        return tuple(map_values(change, part) for part in nest)
    if isinstance(nest, dict):
        return {key: map_values(change, part) for key, part in nest.items()}
    return nest


def values_in(nest: Any) -> list[Value]:
    """Return every value in a nest."""
    found: list[Value] = []
    map_values(found.append, nest)
    return found
