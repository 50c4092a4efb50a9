"""What keeps labels in their places, joins those that meet, or mixes all along an axis."""

from __future__ import annotations

from typing import Any

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.moving import without
from fxprune.structures.channels.rules.movement import part
from fxprune.structures.channels.values import Layer, Value, map_values
from fxprune.structures.channels.walk import Walk


def same(walk: Walk, call: Call) -> Any:
    """Each element is made from the one at its place."""
    return walk.value(call.input)


def arithmetic(walk: Walk, call: Call) -> Any:
    """Of several tensors, broadcast: what stands at one place goes together."""
    given = [walk.value(one) for one in (*call.node.args, *call.node.kwargs.values())]
    values = [one for one in given if isinstance(one, Value)]
    shape = walk.bare(call.node).shape
    return walk.broadcast(values, shape, Reason(call.node, "meets what has no channels there"))


def extremum(walk: Walk, call: Call) -> Any:
    """max and min: of two tensors, or over axes; then with the places where they are."""
    is_of_two = isinstance(walk.value(call.argument("dim")), Value)
    return arithmetic(walk, call) if is_of_two else reduced(walk, call)


def mixed_along(walk: Walk, call: Call) -> Any:
    """Softmax, sort and the like: each element is made from all along an axis."""
    x = walk.value(call.input)
    axis = walk.number(call.argument("dim"))
    if not isinstance(axis, int):
        return walk.barrier(call.node, "its axis is not written out")
    x = walk.mixed(x, [axis % len(x.shape)], Reason(call.node, "mixes all channels"))
    return map_values(lambda one: Value(one.shape, x.layers), walk.bare(call.node))


def glu(walk: Walk, call: Call) -> Any:
    """One half of an axis times the sigmoid of the other."""
    x, axis = walk.value(call.input), int(walk.number(call.argument("dim")))
    x, half = walk.settled(x, axis % len(x.shape)), x.shape[axis] // 2
    parts = [part(walk, call, x, axis % len(x.shape), one) for one in (slice(half), slice(half, None))]
    return walk.broadcast(parts, parts[0].shape, Reason(call.node, "meets what has no channels there"))


def reduced(walk: Walk, call: Call) -> Any:
    """Sums and means: the axes that they are over are mixed, and gone; of several results from each."""
    x, dims = walk.value(call.input), walk.number(call.argument("dim"))
    rank = len(x.shape)
    every = dims is None or dims in ((), [])
    axes = range(rank) if every else [one % rank for one in (dims if isinstance(dims, (tuple, list)) else (dims,))]
    x = walk.mixed(x, axes, Reason(call.node, "mixes all channels"))
    if walk.number(call.argument("keepdim")):
        made = Value(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), x.layers)
    else:
        made = without(x, list(axes))
    return map_values(lambda one: made, walk.bare(call.node))


def over_space(walk: Walk, call: Call) -> Any:
    """Pools and resizing: the axes behind the channels are mixed."""
    out = walk.bare(call.node)
    if not isinstance(out, Value):
        return walk.barrier(call.node, "it returns several tensors")
    x = walk.value(call.input)
    count = call.op.axes if call.op is not None and call.op.axes else len(x.shape) - 2
    reason = Reason(call.node, "slides over the axis that they are on")
    x = walk.mixed(x, range(len(x.shape) - count, len(x.shape)), reason)
    return Value(out.shape, x.layers)


def made(walk: Walk, call: Call) -> Any:
    """Tensors of one number: they have as many elements as is asked for, along each axis."""
    if call.op is not None and call.op.shape == "same":
        return walk.value(call.input)
    return uniform(walk, call, walk.bare(call.node))


def made_like(walk: Walk, call: Call) -> Any:
    """new_zeros and the like: of a tensor they take dtype and device alone."""
    if call.node.target == "new_empty":
        return walk.bare(call.node)
    return uniform(walk, call, walk.bare(call.node))


def uniform(walk: Walk, call: Call, value: Value) -> Value:
    """Return a value whose elements are all the same, with new labels along all its axes."""
    layers = [Layer((axis,), walk.fresh(call.node, axis, size)) for axis, size in enumerate(value.shape) if size > 1]
    return value.with_layers(layers)
