"""Layers with weights: rows make labels, columns read them; norms and what has a parameter a channel keep them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import LEAST, Reason
from fxprune.structures.channels.rules import products
from fxprune.structures.channels.tensors import Record, Vectors
from fxprune.structures.channels.values import Value, value_along
from fxprune.structures.channels.walk import Reader, Walk

_COMPUTED = "its weight is computed in forward: FreezeWeights makes it plain"


def linear(walk: Walk, call: Call) -> Any:
    """y = x W': the last axis of x is read, the others stay."""
    x, weight = walk.value(call.operand(0)), walk.record(call, "weight")
    if weight is None:
        return products.linear(walk, call)
    axis = len(x.shape) - 1
    x = walk.settled(x, axis)
    _read(walk, call, weight, 1, x.along(axis))
    rows = _rows(walk, call, weight, 0)
    kept = [one for one in x.layers if axis not in one.axes]
    made = value_along((*x.shape[:-1], weight.shape[0]), axis, rows)
    return made.with_layers((*kept, *made.layers))


def _read(walk: Walk, call: Call, weight: Record, axis: int, vectors: Vectors) -> None:
    """Note that columns, along ``axis`` of ``weight``, read channels."""
    columns = weight.meet(axis, vectors, Reason(call.node, "its weight reads what has no channels elsewhere"))
    if columns:
        walk.readers.append(Reader(call.node, weight.tensor, axis, columns))


def _rows(walk: Walk, call: Call, weight: Record, axis: int) -> Vectors:
    """Return the labels of the rows, along ``axis`` of ``weight``, which the bias shares."""
    rows = weight.along(axis)
    _share(walk, call, rows, "bias")
    return rows


def _share(walk: Walk, call: Call, vectors: Vectors, *names: str) -> None:
    """Have the parameters of these names, one number a channel, share the labels of the channels."""
    for name in names:
        record = walk.record(call, name)
        if record is not None and record.tensor.dim() == 1:
            record.meet(0, vectors, Reason(call.node, f"its {name} is shared with other channels"))
        elif record is None and walk.value(call.argument(name)) is not None:
            given = walk.value(call.argument(name))
            walk.broadcast([given, value_along(given.shape, 0, vectors)], given.shape, Reason(call.node, name))


def conv(walk: Walk, call: Call) -> Any:
    """Convolutions of all kinds: with groups, the same channel of each group goes, or whole groups."""
    x, weight = walk.value(call.operand(0)), walk.record(call, "weight")
    if weight is None:
        return walk.barrier(call.node, _COMPUTED)
    assert call.op is not None
    axis = len(x.shape) - 1 - call.op.axes
    x = walk.settled(x, axis)
    x = walk.mixed(x, range(axis + 1, len(x.shape)), Reason(call.node, "slides over the axis that they are on"))
    transposed = call.kind == "transposed conv"
    groups = walk.count(call, "groups")
    for place in range(2, len(weight.shape)):
        weight.meet(place, (), Reason(call.node, "is an axis of its kernel"))
    vectors = _of_groups(walk, call, weight, x.along(axis), groups, transposed)
    out = walk.bare(call.node)
    kept = [one for one in x.layers if axis not in one.axes]
    _share(walk, call, vectors, "bias")
    made = value_along(out.shape, axis, vectors)
    return made.with_layers((*kept, *made.layers))


def _of_groups(walk: Walk, call: Call, weight: Record, read: Vectors, groups: int, transposed: bool) -> Vectors:
    """Return the labels of the outputs of a conv with ``groups``."""
    shape = weight.shape
    if groups == 1:
        _read(walk, call, weight, 0 if transposed else 1, read)
        return weight.along(1 if transposed else 0)
    ins, outs = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
    reason = Reason(call.node, "its groups go together")
    if ins == groups and not (transposed and outs > ins):
        return weight.meet(0, tuple(np.repeat(one, outs // groups) for one in read), reason)
    if transposed:
        return _transposed_groups(walk, call, weight, read, groups)
    if outs == groups or walk.goes_whole(call.node, min(shape[1], outs // groups) <= LEAST < groups):
        return _whole_groups(walk, weight, read, groups, reason)
    each = tuple(walk.labels.join_along(one.reshape(groups, -1), 0, reason) for one in read)
    _read(walk, call, weight, 1, each if shape[1] > 1 else ())
    rows = weight.along(0)
    for one in rows:
        walk.labels.join_along(one.reshape(groups, -1), 0, reason)
    return rows


def _whole_groups(walk: Walk, weight: Record, read: Vectors, groups: int, reason: Reason) -> Vectors:
    """Whole groups go, all inputs and outputs of one together: no column reads a channel alone."""
    outs = weight.shape[0]
    firsts = tuple(walk.labels.join_along(one.reshape(groups, -1), 1, reason) for one in read)
    return weight.meet(0, tuple(np.repeat(one, outs // groups) for one in firsts), reason)


def _transposed_groups(walk: Walk, call: Call, weight: Record, read: Vectors, groups: int) -> Vectors:
    reason = Reason(call.node, "its groups go together")
    for one in read:
        walk.labels.join_along(one.reshape(groups, -1), 0, reason)
    _read(walk, call, weight, 0, read)
    return tuple(np.tile(one, groups) for one in weight.along(1))


_PARAMETERS = ("weight", "bias", "running_mean", "running_var")
_UNBATCHED = {nn.InstanceNorm1d: 2, nn.InstanceNorm2d: 3, nn.InstanceNorm3d: 4}


def norm_of_channels(walk: Walk, call: Call) -> Any:
    """Norms with statistics of each channel: batch and instance norm."""
    x = walk.value(call.operand(0))
    if len(x.shape) == _UNBATCHED.get(type(call.module)):
        return walk.barrier(call.node, "has no axis of batches")
    x = walk.settled(x, 1)
    others = [axis for axis in range(len(x.shape)) if axis != 1]
    x = walk.mixed(x, others, Reason(call.node, "has one mean along the axis that they are on"))
    _share(walk, call, x.along(1), *_PARAMETERS)
    return x


def gated(walk: Walk, call: Call) -> Any:
    """A gate of a layer: what it wraps, and the norm behind that; of several operands it is the sum."""
    gate, node = call.module, call.node
    if gate.wraps is None:
        reason = Reason(node, "meets what has no channels there")
        return walk.broadcast([walk.value(one) for one in node.args[: gate.operands]], walk.bare(node).shape, reason)
    layer, *norms = (Call(node, one) for one in gate._modules.values() if one is not None)
    if any(one.exact is None for one in (layer, *norms)):
        return walk.barrier(node, _COMPUTED)
    y = conv(walk, layer)
    for norm in norms if isinstance(y, Value) else ():
        _share(walk, norm, y.along(1), *_PARAMETERS)
    return y


def group_norm(walk: Walk, call: Call) -> Any:
    """Whole groups of the norm go: all channels of one share its mean; the same of each, if that may change."""
    x = walk.settled(walk.value(call.operand(0)), 1)
    groups = walk.count(call, "num_groups")
    why = Reason(call.node, "all channels share its statistics" if groups == 1 else "a group has one mean")
    x = walk.mixed(x, range(2, len(x.shape)), why)
    _share(walk, call, x.along(1), "weight", "bias")
    within = walk.approximate and groups < x.shape[1] and (groups == 1 or not walk.whole)
    for one in x.along(1):
        if groups == 1 and not within:
            walk.labels.pin(one, why)
        walk.labels.join_along(one.reshape(groups, -1), 0 if within else 1, why)
    return x


def norm_of_last_axes(walk: Walk, call: Call) -> Any:
    """Layer norm and the like: zeros would change the statistics of what they stand beside."""
    x = walk.value(call.operand(0))
    count = _rank_of(walk.number(call.argument("normalized_shape")))
    axes = range(len(x.shape) - count, len(x.shape))
    if walk.approximate and count == 1:
        x = walk.settled(x, axes[0])
        _share(walk, call, x.along(axes[0]), "weight", "bias")
        return x
    why = Reason(call.node, "its statistics are of all channels: statistics='approximate' lets them change")
    kept = walk.mixed(x, axes, why)
    for name in ("weight", "bias"):
        record = walk.record(call, name)
        if record is not None:
            for axis in range(record.tensor.dim()):
                record.meet(axis, (), why)
        else:
            walk.pin(walk.value(call.argument(name)), why.why)
    return kept


def _rank_of(shape: Any) -> int:
    return len(shape) if isinstance(shape, (tuple, list, torch.Size)) else 1


def prelu(walk: Walk, call: Call) -> Any:
    """A slope a channel, or one for all."""
    x, weight = walk.value(call.operand(0)), walk.record(call, "weight")
    if weight is None:
        return walk.barrier(call.node, _COMPUTED)
    if weight.tensor.numel() == 1:
        return x
    x = walk.settled(x, 1)
    _share(walk, call, x.along(1), "weight")
    return x


def embedding(walk: Walk, call: Call) -> Any:
    """Rows are looked up; the entries of a row are channels."""
    weight = walk.record(call, "weight")
    index = walk.value(call.operand(0))
    if weight is None or not isinstance(index, Value):
        return walk.barrier(call.node, _COMPUTED)
    weight.meet(0, (), Reason(call.node, "rows are looked up by index"))
    if walk.number(call.argument("max_norm")) is not None:
        weight.meet(1, (), Reason(call.node, "its rows are held to a norm of all channels"))
    shape = (*index.shape, weight.shape[1])
    made = value_along(shape, len(shape) - 1, weight.along(1))
    return made.with_layers((*index.layers, *made.layers))
