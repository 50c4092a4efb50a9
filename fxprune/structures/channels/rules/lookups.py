"""Elements taken by indices that the graph computes, and windows taken out of space: what that is along is mixed."""

from __future__ import annotations

from typing import Any

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.moving import reshaped
from fxprune.structures.channels.rules.movement import part
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Walk

_INDEXED = "is indexed along the axis that they are on"
_WINDOWS = "slides over the axis that they are on"


def index_select(walk: Walk, call: Call) -> Any:
    """Places of an axis, by a vector of indices."""
    x, index = walk.value(call.input), walk.value(call.argument("index"))
    reason = Reason(call.node, _INDEXED)
    walk.mixed(index, range(len(index.shape)), reason)
    x = walk.mixed(x, [walk.number(call.argument("dim")) % len(x.shape)], reason)
    return Value(walk.bare(call.node).shape, x.layers)


def gather(walk: Walk, call: Call) -> Any:
    """Elements along an axis, each by an index at its own place; along the others from the first places on."""
    x, index = walk.value(call.input), walk.value(call.argument("index"))
    axis = walk.number(call.argument("dim")) % len(x.shape)
    x = walk.mixed(x, [axis], Reason(call.node, _INDEXED))
    for other, (size, taken) in enumerate(zip(x.shape, index.shape, strict=True)):
        if other != axis and taken < size:
            x = part(walk, call, walk.settled(x, other), other, slice(taken))
    row = Value((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.layers)
    return walk.broadcast([row, index], index.shape, Reason(call.node, "meets indices without channels there"))


def grid_sample(walk: Walk, call: Call) -> Any:
    """Pixels, at places that another tensor says, which has those of each image of the batch."""
    x, grid = walk.value(call.input), walk.value(call.argument("grid"))
    reason = Reason(call.node, "is sampled along the axis that they are on")
    sides = [walk.mixed(x, range(2, len(x.shape)), reason), walk.mixed(grid, range(1, len(grid.shape)), reason)]
    ones = (1,) * len(x.shape)
    flat = [Value((*one.shape[:n], *ones[n:]), one.layers) for one, n in zip(sides, (2, 1), strict=True)]
    both = walk.broadcast(flat, flat[0].shape, Reason(call.node, "meets places without channels there"))
    return Value(walk.bare(call.node).shape, both.layers)


def unfold(walk: Walk, call: Call) -> Any:
    """x.unfold: windows along one axis, which lie along a new one."""
    x = walk.value(call.input)
    axis = walk.number(call.argument("dimension")) % len(x.shape)
    return Value(walk.bare(call.node).shape, walk.mixed(x, [axis], Reason(call.node, _WINDOWS)).layers)


def windows(walk: Walk, call: Call) -> Any:
    """F.unfold: the pixels of a window are channels, all those of one channel side by side."""
    x, out = walk.value(call.input), walk.bare(call.node)
    x = walk.settled(
        walk.mixed(x, (len(x.shape) - 2, len(x.shape) - 1), Reason(call.node, _WINDOWS)), len(x.shape) - 3
    )
    axis = len(x.shape) - 3
    side = Value((*x.shape[: axis + 1], out.shape[axis] // x.shape[axis], 1), x.layers)
    return Value(out.shape, reshaped(side, (*out.shape[:-1], 1)).layers)


def overlapped(walk: Walk, call: Call) -> Any:
    """F.fold: windows are added where they overlap."""
    x, out = walk.value(call.input), walk.bare(call.node)
    axis = len(x.shape) - 2
    channels = out.shape[-3]
    x = reshaped(x, (*x.shape[:-1][:axis], channels, x.shape[axis] // channels, x.shape[-1]))
    x = walk.mixed(x, (axis + 1, axis + 2), Reason(call.node, _WINDOWS))
    return Value(out.shape, tuple(Layer(one.axes, one.labels) for one in x.layers))
