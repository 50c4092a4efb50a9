"""What moving elements makes of their labels: reshaping, permuting, taking parts, putting parts together.

Labels are never spread out to the size of a value. A reshape takes the axes of both shapes apart into blocks of equal
size; only what lies in one block with labels is written out.

    (8, 64, 7, 7) -> (8, 3136)     blocks 8 | 8 and 64, 7, 7 | 3136: each label 49 times
    (8, 64, 7, 7) -> (8, 4, 16, 49)    blocks 8 | 8, 64 | 4, 16 and 7, 7 | 49: the labels as an array of 4 x 16
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.values import Layer, Value, varying

_MOST = 1 << 22


class TooLarge(Exception):
    """Labels that would have to be written out at the size of a value."""


def permuted(value: Value, axes: Sequence[int]) -> Value:
    """Return ``value`` with its axes in another order; ``axes[i]`` is where axis i comes from."""
    places = {axis: place for place, axis in enumerate(axes)}
    shape = tuple(value.shape[axis] for axis in axes)
    return Value(shape, tuple(Layer(tuple(places[a] for a in one.axes), one.labels) for one in value.layers))


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """Return ``value`` with another shape of as many elements."""
    if not value.layers or 0 in shape:
        return Value(tuple(shape))
    blocks = _blocks(value.shape, shape)
    layers = (_reshaped_layer(one, value.shape, shape, blocks) for one in value.layers)
    return Value(tuple(shape), tuple(one for one in layers if one is not None))


_Block = tuple[list[int], list[int]]


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[_Block]:
    """Return the smallest runs of axes of both shapes that hold as many elements each."""
    blocks: list[_Block] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = i, j
        sizes = [1, 1]
        if i < len(old):
            sizes[0], i = old[i], i + 1
        if j < len(new):
            sizes[1], j = new[j], j + 1
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                sizes[0], i = sizes[0] * old[i], i + 1
            else:
                sizes[1], j = sizes[1] * new[j], j + 1
        blocks.append((list(range(before, i)), list(range(after, j))))
    return blocks


def _reshaped_layer(layer: Layer, old: Sequence[int], new: Sequence[int], blocks: Sequence[_Block]) -> Layer | None:
    mine = [block for block in blocks if not set(block[0]).isdisjoint(layer.axes)]
    wide = [([a for a in ins if old[a] > 1], [a for a in outs if new[a] > 1]) for ins, outs in mine]
    if all(len(ins) == len(outs) == 1 for ins, outs in wide):
        to = {ins[0]: outs[0] for ins, outs in wide}
        return Layer(tuple(to[axis] for axis in layer.axes), layer.labels)
    ins = [axis for block in mine for axis in block[0]]
    outs = [axis for block in mine for axis in block[1]]
    if math.prod(old[axis] for axis in ins) > _MOST:
        raise TooLarge
    spread = _spread(layer, ins, old).reshape([new[axis] for axis in outs])
    return varying(outs, spread)


def _spread(layer: Layer, axes: Sequence[int], shape: Sequence[int]) -> Array:
    """Return the labels of a layer as an array over ``axes``, which hold its own."""
    order = sorted(range(len(layer.axes)), key=lambda place: axes.index(layer.axes[place]))
    labels = layer.labels.transpose(order)
    sizes = [shape[axis] if axis in layer.axes else 1 for axis in axes]
    return np.broadcast_to(labels.reshape(sizes), [shape[axis] for axis in axes])


def inserted(value: Value, axis: int) -> Value:
    """Return ``value`` with a new axis of size 1."""
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    return Value(shape, tuple(_shifted(one, lambda a: a + (a >= axis)) for one in value.layers))


def without(value: Value, gone: Sequence[int]) -> Value:
    """Return ``value`` without the axes ``gone``, along which no layer varies."""
    kept = [axis for axis in range(len(value.shape)) if axis not in gone]
    layers = (_shifted(one, kept.index) for one in value.layers if not set(one.axes) & set(gone))
    return Value(tuple(value.shape[axis] for axis in kept), tuple(layers))


def _shifted(layer: Layer, place: Any) -> Layer:
    return Layer(tuple(place(axis) for axis in layer.axes), layer.labels)


def taken(value: Value, axis: int, index: Any) -> Value:
    """Return the part of ``value`` at ``index``, a slice or an array, along ``axis``."""
    size = len(np.arange(value.shape[axis])[index])
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    layers = (_taken_layer(one, axis, index) for one in value.layers)
    return Value(shape, tuple(one for one in layers if one is not None))


def _taken_layer(layer: Layer, axis: int, index: Any) -> Layer | None:
    if axis not in layer.axes:
        return layer
    place = layer.axes.index(axis)
    labels = layer.labels[(slice(None),) * place + (index,)]
    if labels.shape[place] != 1:
        return Layer(layer.axes, labels)
    rest = layer.axes[:place] + layer.axes[place + 1 :]
    return Layer(rest, labels.squeeze(place)) if rest else None


def concatenated(vectors: Sequence[Sequence[Array]], sizes: Sequence[int]) -> tuple[Array, ...] | None:
    """Return the labels along an axis where parts of ``sizes``, each with its own, follow each other.

    None if they have labels in several layers, and not the same number.
    """
    counts = {len(one) for one in vectors if one}
    if not counts:
        return ()
    if len(counts) > 1:
        return None
    (count,) = counts
    filled = [one or (np.zeros(size, dtype=np.int64),) * count for one, size in zip(vectors, sizes, strict=True)]
    return tuple(np.concatenate([one[index] for one in filled]) for index in range(count))
