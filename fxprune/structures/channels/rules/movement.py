"""Ops that move elements, as what they do to labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Array, Reason
from fxprune.structures.channels.moving import inserted, permuted, reshaped, taken, without
from fxprune.structures.channels.values import Layer, Value, map_values
from fxprune.structures.channels.walk import Walk


def reshape(walk: Walk, call: Call) -> Any:
    """View, reshape, flatten, unflatten: the same elements in the same order."""
    if len(call.node.args) == 2 and isinstance(call.node.args[1], type(None)):
        return walk.barrier(call.node, "views its memory as another type")
    x, out = walk.value(call.input), walk.bare(call.node)
    if math.prod(x.shape) != math.prod(out.shape):
        return walk.barrier(call.node, "views its memory as another type")
    return reshaped(x, out.shape)


def _dims(walk: Walk, call: Call, name: str) -> list[int]:
    given = walk.number(call.argument(name))
    flat = given[0] if isinstance(given, (tuple, list)) and given and isinstance(given[0], (tuple, list)) else given
    return list(flat) if isinstance(flat, (tuple, list)) else [flat]


def permute(walk: Walk, call: Call) -> Any:
    """Axes in another order."""
    x = walk.value(call.input)
    return permuted(x, [one % len(x.shape) for one in _dims(walk, call, "dims")])


def transpose(walk: Walk, call: Call) -> Any:
    """Two axes exchanged."""
    x = walk.value(call.input)
    axes = list(range(len(x.shape)))
    first, second = (int(walk.number(call.argument(name))) for name in ("dim0", "dim1"))
    axes[first], axes[second] = axes[second], axes[first]
    return permuted(x, axes)


def movedim(walk: Walk, call: Call) -> Any:
    """Some axes put elsewhere."""
    x = walk.value(call.input)
    moves = (_dims(walk, call, name) for name in ("source", "destination"))
    return permuted(x, np.moveaxis(np.empty(range(len(x.shape))), *moves).shape)


def transposed(walk: Walk, call: Call) -> Any:
    """The last two axes exchanged."""
    x = walk.value(call.input)
    axes = list(range(len(x.shape)))
    return permuted(x, [*axes[:-2], *reversed(axes[-2:])])


def attribute(walk: Walk, call: Call) -> Any:
    """x.mT, and the parts of a named tuple."""
    x, name = walk.value(call.input), str(call.argument("name"))
    if isinstance(x, Value):
        turned = name in ("mT", "mH") or (name in ("T", "H") and len(x.shape) <= 2)
        return transposed(walk, call) if turned else walk.barrier(call.node, f"its {name} is read")
    return x[("values", "indices").index(name)]


def squeeze(walk: Walk, call: Call) -> Any:
    """Axes of size 1 gone: they have no labels."""
    x = walk.value(call.input)
    return map_values(lambda one: reshaped(x, one.shape), walk.bare(call.node))


def chunk(walk: Walk, call: Call) -> Any:
    """Chunk and split: parts that follow each other."""
    x = walk.value(call.input)
    axis = int(walk.number(call.argument("dim"))) % len(x.shape)
    ends = np.cumsum([0, *_parts(walk, call, x.shape[axis])])
    return tuple(part(walk, call, x, axis, slice(int(a), int(b))) for a, b in pairwise(ends))


def _parts(walk: Walk, call: Call, size: int) -> list[int]:
    """Return the sizes of the parts of an axis."""
    assert call.op is not None
    given = walk.number(call.argument(call.op.parameters[1].name))
    if isinstance(given, (tuple, list)):
        return [int(one) for one in given]
    step = -(-size // given) if call.op.name == "chunk" else int(given)
    return [min(step, size - start) for start in range(0, size, step)]


def tensor_split(walk: Walk, call: Call) -> Any:
    """Parts that end at given places, or so many that are as even as can be."""
    x = walk.value(call.input)
    names = ("indices_or_sections", "indices", "sections")
    given = next(walk.number(one) for one in map(call.argument, names) if one is not None)
    axis = int(walk.number(call.argument("dim"))) % len(x.shape)
    places = np.array_split(np.arange(x.shape[axis]), list(given) if isinstance(given, (tuple, list)) else given)
    starts = np.cumsum([0, *map(len, places)]).tolist()
    return tuple(part(walk, call, x, axis, slice(a, b)) for a, b in pairwise(starts))


def part(walk: Walk, call: Call, x: Value, axis: int, index: slice | Array) -> Value:
    """Return some places of an axis; what is one place of it has no labels there, and stays."""
    found = taken(x, axis, index)
    if found.shape[axis] == 1 < x.shape[axis]:
        for one in x.along(axis):
            walk.labels.pin(one[index], Reason(call.node, "takes one of the channels"))
    return found


def unbind(walk: Walk, call: Call) -> Any:
    """Each place of an axis alone."""
    x = walk.value(call.input)
    axis = int(walk.number(call.argument("dim"))) % len(x.shape)
    return tuple(selected(walk, call, x, axis, index) for index in range(x.shape[axis]))


def selected(walk: Walk, call: Call, x: Value, axis: int, index: int) -> Value:
    """Return one place of an axis, which then is none; what stands there along it alone stays."""
    for one in x.along(axis):
        walk.labels.pin(one[index : index + 1], Reason(call.node, "takes one of the channels"))
    if any(axis in one.axes and len(one.axes) > 1 for one in x.layers):
        walk.fixed.append((x, axis))
    return without(taken(x, axis, slice(index, index + 1)), [axis])


def select(walk: Walk, call: Call) -> Any:
    """One place of an axis."""
    x = walk.value(call.input)
    axis, index = (int(walk.number(call.argument(name))) for name in ("dim", "index"))
    axis %= len(x.shape)
    return selected(walk, call, x, axis, index % x.shape[axis])


def narrow(walk: Walk, call: Call) -> Any:
    """A part of an axis."""
    x = walk.value(call.input)
    axis, start, length = (int(walk.number(call.argument(name))) for name in ("dim", "start", "length"))
    axis = axis % len(x.shape)
    start = start + x.shape[axis] if start < 0 else start
    return part(walk, call, x, axis, slice(start, start + length))


def expand(walk: Walk, call: Call) -> Any:
    """Axes of size 1 repeated: new labels, of equal elements."""
    x, out = walk.value(call.input), walk.bare(call.node)
    ahead = len(out.shape) - len(x.shape)
    layers = [Layer(tuple(axis + ahead for axis in one.axes), one.labels) for one in x.layers]
    for axis, size in enumerate(out.shape):
        if size > 1 and (axis < ahead or x.shape[axis - ahead] == 1):
            layers.append(Layer((axis,), walk.fresh(call.node, axis, size)))
    return Value(out.shape, tuple(layers))


def expand_as(walk: Walk, call: Call) -> Any:
    """Likewise, to the shape of another tensor, whose channels go along; view_as is a reshape."""
    x, out = walk.value(call.input), walk.bare(call.node)
    other = walk.value(call.node.args[1])
    wide = expand(walk, call) if call.node.target == "expand_as" else reshaped(x, out.shape)
    return walk.broadcast([wide, other], out.shape, Reason(call.node, "takes the shape of what has no channels"))


def repeat(walk: Walk, call: Call) -> Any:
    """Copies one after the other; of an axis of size 1 they are equal, and new labels."""
    assert call.op is not None
    return _copied(walk, call, _dims(walk, call, call.op.parameters[1].name), np.tile)


def repeat_interleave(walk: Walk, call: Call) -> Any:
    """Copies of each place beside each other; of an axis of size 1 likewise."""
    x, times, axis = walk.value(call.input), *(walk.number(call.argument(one)) for one in ("repeats", "dim"))
    if type(times) is not int or axis is None:
        return walk.barrier(call.node, "is repeated in a way that is not known")
    counts = [1] * len(x.shape)
    counts[axis] = times
    return _copied(walk, call, counts, _beside)


def _copied(walk: Walk, call: Call, times: Sequence[int], copy: Callable[[Array, list[int]], Array]) -> Value:
    x = walk.value(call.input)
    times = (1,) * (len(x.shape) - len(times)) + tuple(times)
    for _ in range(len(times) - len(x.shape)):
        x = inserted(x, 0)
    layers = [Layer(one.axes, copy(one.labels, [times[axis] for axis in one.axes])) for one in x.layers]
    for axis, (size, count) in enumerate(zip(x.shape, times, strict=True)):
        if size == 1 < count:
            layers.append(Layer((axis,), walk.fresh(call.node, axis, count)))
    return Value(tuple(a * b for a, b in zip(x.shape, times, strict=True)), tuple(layers))


def _beside(labels: Array, times: list[int]) -> Array:
    for axis, count in enumerate(times):
        labels = np.repeat(labels, count, axis)
    return labels


def flip(walk: Walk, call: Call) -> Any:
    """Axes backwards."""
    x = walk.value(call.input)
    for one in _dims(walk, call, "dims"):
        x = taken(x, one % len(x.shape), slice(None, None, -1))
    return x


def roll(walk: Walk, call: Call) -> Any:
    """Axes turned: where they have labels these stay, as the shift is a number."""
    x = walk.value(call.input)
    if call.argument("dims") is None:
        return walk.barrier(call.node, "is rolled over all axes")
    axes = [one % len(x.shape) for one in _dims(walk, call, "dims")]
    return walk.mixed(x, axes, Reason(call.node, "is rolled along the axis that they are on"))


def channel_shuffle(walk: Walk, call: Call) -> Any:
    """The same channel of all groups, group by group: the same channel of each goes, or whole groups."""
    x = walk.value(call.input)
    groups = walk.count(call, "groups")
    hidden = reshaped(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    walk.hidden[call.node] = hidden
    order = [0, 2, 1, *range(3, len(hidden.shape))]
    return reshaped(permuted(hidden, order), x.shape)
