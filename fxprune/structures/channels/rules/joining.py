"""Tensors put together, and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.moving import concatenated, inserted
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Walk


def cat(walk: Walk, call: Call) -> Any:
    """Tensors put together along an axis; along the others they are joined."""
    tensors = call.argument("tensors")
    parts = walk.value(tensors)
    axis = walk.number(call.argument("dim"))
    return joined(walk, call, list(parts), axis % len(walk.bare(call.node).shape))


def stack(walk: Walk, call: Call) -> Any:
    """Tensors put together along a new axis."""
    parts = walk.value(call.argument("tensors"))
    axis = walk.number(call.argument("dim")) % len(walk.bare(call.node).shape)
    return joined(walk, call, [inserted(one, axis) for one in parts], axis)


def joined(walk: Walk, call: Call, parts: Sequence[Value], axis: int) -> Value:
    """Return ``parts`` put together along ``axis``."""
    out: Value = walk.bare(call.node)
    parts = [one for one in parts if one.shape != (0,)]
    kinds = {tuple(layer.axes for layer in one.layers) for one in parts}
    if all(one.shape[axis] == 1 for one in parts) and len(kinds) == 1:
        return _stacked(parts, axis, out.shape)
    parts = [walk.settled(one, axis) for one in parts]
    reason = Reason(call.node, "is put together with what has no channels")
    vectors = concatenated([one.along(axis) for one in parts], [one.shape[axis] for one in parts])
    if vectors is None:
        walk.pin(tuple(parts), "is put together in a way that is not known")
        return out
    others = [one.with_layers(layer for layer in one.layers if axis not in layer.axes) for one in parts]
    flat = [Value((*one.shape[:axis], 1, *one.shape[axis + 1 :]), one.layers) for one in others]
    kept = walk.broadcast(flat, (*out.shape[:axis], 1, *out.shape[axis + 1 :]), reason)
    return Value(out.shape, (*kept.layers, *(Layer((axis,), one) for one in vectors)))


def _stacked(parts: Sequence[Value], axis: int, shape: tuple[int, ...]) -> Value:
    """Return parts of size 1 put together: each keeps labels of its own."""
    layers = []
    for index, layer in enumerate(parts[0].layers):
        labels = [one.layers[index].labels for one in parts]
        if all(one is labels[0] for one in labels):
            layers.append(layer)
        else:
            layers.append(Layer((axis, *layer.axes), np.stack(labels)))
    return Value(shape, tuple(layers))


def pad(walk: Walk, call: Call) -> Any:
    """Elements of one number beside the others: where the axis has labels, new ones."""
    x, out = walk.value(call.input), walk.bare(call.node)
    name = "pad" if call.op is not None and call.op.name == "pad" else "padding"
    given = walk.number(call.argument(name))
    rank = len(x.shape)
    sides = [given] * (2 * (rank - 2)) if isinstance(given, int) else list(given)
    if name == "pad":
        constant = walk.number(call.argument("mode")) == "constant"
    else:
        constant = call.op is not None and call.op.name in ("zero_pad", "constant_pad")
    for place in range(len(sides) // 2):
        axis, (left, right) = rank - 1 - place, sides[2 * place : 2 * place + 2]
        if left == 0 == right:
            continue
        if not constant:
            x = walk.mixed(x, [axis], Reason(call.node, "is padded with its own elements"))
            continue
        x = _padded(walk, call, walk.settled(x, axis), axis, left, right)
    return Value(out.shape, x.layers)


def _padded(walk: Walk, call: Call, x: Value, axis: int, left: int, right: int) -> Value:
    ends = [walk.fresh(call.node, (axis, side), max(count, 0)) for side, count in (("l", left), ("r", right))]
    layers = []
    for layer in x.layers:
        if layer.axes == (axis,):
            middle = layer.labels[max(-left, 0) : len(layer.labels) - max(-right, 0)]
            layer = Layer(layer.axes, np.concatenate((ends[0], middle, ends[1])))
        layers.append(layer)
    return x.with_layers(layers)
