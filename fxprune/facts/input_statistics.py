"""What a layer with weights reads, as the rows of a matrix product: its patches, one for each place of its output.

y = layer(x)   ->   rows(y) = patches(x) @ matrix(W)^T + b        for convs, transposed ones and linear layers alike
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch.nn import functional

from fxprune.ops.call import Call


class Geometry:
    """How a call of a conv or a linear layer reads its input.

    Args:
        call: of one of :data:`fxprune.ops.op.WEIGHTED`.
        weight: its weight, (out, in / groups, *kernel), of a transposed conv (in, out / groups, *kernel).

    Attributes:
        groups, rows, columns: of :meth:`matrix`; columns are the taps of the channels of one group.
        channels: how many channels of the input a group reads.
    """

    def __init__(self, call: Call, weight: torch.Tensor) -> None:
        self.kind = call.kind
        self.groups = int(call.argument("groups")) if self.kind != "linear" else 1
        self.kernel = tuple(weight.shape[2:])
        self.rows = weight.shape[1] if self.kind == "transposed conv" else weight.shape[0] // self.groups
        self.channels = weight.shape[0] // self.groups if self.kind == "transposed conv" else weight.shape[1]
        self.columns = self.channels * math.prod(self.kernel)
        if self.kind == "linear":
            return
        self.stride, self.dilation = _numbers(call, "stride"), _numbers(call, "dilation")
        self.pads = self._pads(call)
        self.mode = getattr(call.module, "padding_mode", "zeros")

    def _pads(self, call: Call) -> list[tuple[int, int]]:
        """Return how many places are put before and after each axis in space; negative ones are taken off."""
        reach = [step * (size - 1) for step, size in zip(self.dilation, self.kernel, strict=True)]
        given = call.argument("padding")
        if given == "same":
            return [(one // 2, one - one // 2) for one in reach]
        if given == "valid":
            return [(0, 0) for _ in reach]
        pads = _numbers(call, "padding")
        if self.kind == "conv":
            return [(one, one) for one in pads]
        more = _numbers(call, "output_padding")
        return [(far - pad, far - pad + extra) for far, pad, extra in zip(reach, pads, more, strict=True)]

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight as (groups, rows, columns); columns are ordered by channel, then by tap."""
        if self.kind == "transposed conv":
            weight = weight.view(self.groups, self.channels, self.rows, *self.kernel).transpose(1, 2)
        return weight.reshape(self.groups, self.rows, self.columns)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the weight whose :meth:`matrix` this is."""
        if self.kind == "linear":
            return matrix[0]
        found = matrix.reshape(self.groups, self.rows, self.channels, *self.kernel)
        if self.kind == "transposed conv":
            return found.transpose(1, 2).reshape(-1, self.rows, *self.kernel)
        return found.reshape(-1, self.channels, *self.kernel)

    def rows_of(self, y: torch.Tensor) -> torch.Tensor:
        """Return what the layer computes, (groups, places, rows)."""
        if self.kind == "linear":
            return y.reshape(1, -1, y.shape[-1])
        y = _batched(y, len(self.kernel)).flatten(2)
        return y.view(y.shape[0], self.groups, self.rows, -1).permute(1, 0, 3, 2).reshape(self.groups, -1, self.rows)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer reads for each place of its output, (groups, places, columns); zero padding too."""
        if self.kind == "linear":
            return x.reshape(1, -1, x.shape[-1])
        x = _batched(x, len(self.kernel))
        if self.kind == "transposed conv":
            x = _spread(x, self.stride)
        x = _padded(x, self.pads, self.mode)
        steps: Sequence[int] = self.stride if self.kind == "conv" else [1] * len(self.kernel)
        for axis, (size, step, far) in enumerate(zip(self.kernel, steps, self.dilation, strict=True)):
            x = x.unfold(axis + 2, far * (size - 1) + 1, step)[..., ::far]
        space = len(self.kernel)
        if self.kind == "transposed conv":
            x = x.flip(list(range(space + 2, 2 * space + 2)))
        n = x.shape[0]
        x = x.reshape(n, self.groups, self.channels, *x.shape[2:])
        order = [1, 0, *range(3, 3 + space), 2, *range(3 + space, 3 + 2 * space)]
        return x.permute(order).reshape(self.groups, -1, self.columns)


def _numbers(call: Call, name: str) -> tuple[int, ...]:
    found = call.numbers(name)
    assert found is not None, f"{name} of {call.node.name} is no number"
    return found


def _batched(x: torch.Tensor, space: int) -> torch.Tensor:
    return x if x.dim() == space + 2 else x.unsqueeze(0)


def _padded(x: torch.Tensor, pads: Sequence[tuple[int, int]], mode: str) -> torch.Tensor:
    if not any(chain(*pads)):
        return x
    flat = list(chain(*reversed(pads)))  # torch starts with the last axis
    return functional.pad(x, flat) if mode == "zeros" else functional.pad(x, flat, mode=mode)


def _spread(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Return ``x`` with zeros between its places, as a transposed conv reads it."""
    if set(stride) == {1}:
        return x
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    found = x.new_zeros(*x.shape[:2], *sizes)
    found[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
    return found
