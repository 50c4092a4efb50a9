"""Pixels that become channels, channels that become pixels, and windows: what is along space is mixed."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxprune.ops.call import Call
from fxprune.structures.channels.labels import Reason
from fxprune.structures.channels.moving import reshaped
from fxprune.structures.channels.values import Layer, Value
from fxprune.structures.channels.walk import Walk

_WINDOWS = "slides over the axis that they are on"


def unfold(walk: Walk, call: Call) -> Any:
    """x.unfold: windows along one axis, which lie along a new one."""
    x = walk.value(call.input)
    axis = walk.number(call.argument("dimension")) % len(x.shape)
    return Value(walk.bare(call.node).shape, walk.mixed(x, [axis], Reason(call.node, _WINDOWS)).layers)


def windows(walk: Walk, call: Call) -> Any:
    """F.unfold: the pixels of a window are channels, all those of one channel side by side."""
    x, out = walk.value(call.input), walk.bare(call.node)
    axis = len(x.shape) - 3
    x = walk.settled(walk.mixed(x, (axis + 1, axis + 2), Reason(call.node, _WINDOWS)), axis)
    side = Value((*x.shape[: axis + 1], out.shape[axis] // x.shape[axis], 1), x.layers)
    return Value(out.shape, reshaped(side, (*out.shape[:-1], 1)).layers)


def overlapped(walk: Walk, call: Call) -> Any:
    """F.fold: windows are added where they overlap."""
    x, out = walk.value(call.input), walk.bare(call.node)
    *batch, columns, count = x.shape
    channels, axis = out.shape[-3], len(batch)
    x = reshaped(x, (*batch, channels, columns // channels, count))
    return Value(out.shape, walk.mixed(x, (axis + 1, axis + 2), Reason(call.node, _WINDOWS)).layers)


def pixel_shuffle(walk: Walk, call: Call) -> Any:
    """Channels become pixels: those that become one block of pixels go together."""
    x, out = walk.value(call.input), walk.bare(call.node)
    *batch, channels, height, width = x.shape
    factor = int(walk.number(call.argument("upscale_factor")))
    blocks = reshaped(x, (*batch, channels // factor**2, factor, factor, height, width))
    axis = len(batch)
    blocks = walk.mixed(blocks, (axis + 1, axis + 2), Reason(call.node, "makes pixels of them"))
    layers = [one for one in blocks.layers if max(one.axes) <= axis]
    walk.pin(blocks.with_layers(one for one in blocks.layers if max(one.axes) > axis), "makes pixels of them")
    return Value(out.shape, tuple(layers))


def pixel_unshuffle(walk: Walk, call: Call) -> Any:
    """Pixels become channels: those of one block go together."""
    x, out = walk.value(call.input), walk.bare(call.node)
    axis = len(x.shape) - 3
    factor = int(walk.number(call.argument("downscale_factor")))
    x = walk.mixed(x, (axis + 1, axis + 2), Reason(call.node, "makes channels of pixels"))
    x = walk.settled(x, axis)
    layers = [
        Layer(one.axes, np.repeat(one.labels, factor**2) if one.axes == (axis,) else one.labels) for one in x.layers
    ]
    return Value(out.shape, tuple(layers))
