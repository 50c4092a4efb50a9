"""Elements taken by an index: one that is written out moves labels, one that the graph computes mixes its axis."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType, NoneType
from typing import Any

import numpy as np

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.moving import inserted
from fxprune.structures.channels.rules.movement import part, selected
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Walk

_INDEXED = "is indexed along the axis that they are on"


def getitem(walk: Walk, call: Call) -> Any:
    """Parts of a tuple, and slices, numbers, one list of numbers, None and ... in a tensor's index."""
    x, index = walk.value(call.node.args[0]), walk.number(call.node.args[1])
    if isinstance(x, (tuple, dict)) and not isinstance(x, Value):
        return x[index]
    index = index if isinstance(call.node.args[1], tuple) else (index,)
    return _indexed(walk, call, x, index) if moves(index) else _by_tensor(walk, call, x, index)


def moves(index: Sequence[Any]) -> bool:
    """Say whether an index takes each part of its axes by itself: slices and numbers, or slices and one list."""
    lists = [one for one in index if is_places(one)]
    plain = (slice, NoneType, EllipsisType, *(() if lists else (int,)))
    return len(lists) < 2 and all(is_places(one) or type(one) in plain for one in index)


def is_places(one: Any) -> bool:
    """Say whether a part of an index is a list of places."""
    return isinstance(one, (tuple, list)) and len(one) > 0 and all(type(place) is int for place in one)


def _indexed(walk: Walk, call: Call, x: Value, index: tuple[Any, ...]) -> Value:
    taking = len([one for one in index if one is not None and one is not Ellipsis])
    rest = (slice(None),) * (len(x.shape) - taking)
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    place = index.index(Ellipsis)
    axis = 0
    for one in (*index[:place], *rest, *index[place + 1 :]):
        if one is None:
            x = inserted(x, axis)
        elif isinstance(one, slice):
            x = x if one == slice(None) else part(walk, call, x, axis, one)
        elif is_places(one):
            x = part(walk, call, x, axis, np.array(one))
        else:
            x = selected(walk, call, x, axis, one % x.shape[axis])
            axis -= 1
        axis += 1
    return x


def _by_tensor(walk: Walk, call: Call, x: Value, index: tuple[Any, ...]) -> Any:
    """Rows looked up by a tensor of indices: the axis that it is of stays."""
    others = [one for one in index[:-1] if one != slice(None)]
    looked_up = walk.value(call.node.args[1] if not isinstance(call.node.args[1], tuple) else call.node.args[1][-1])
    if others or not isinstance(looked_up, Value) or looked_up.layers:
        return walk.barrier(call.node, "is indexed in a way that is not known")
    axis = len(index) - 1
    x = walk.mixed(x, [axis], Reason(call.node, _INDEXED))
    more = len(looked_up.shape) - 1
    layers = [Layer(tuple(a + more if a > axis else a for a in one.axes), one.labels) for one in x.layers]
    return Value(walk.bare(call.node).shape, tuple(layers))


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
