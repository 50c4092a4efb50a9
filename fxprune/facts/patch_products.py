"""Sums of patches and of their products, over all places, without making most of the patches.

P = patches(x), a row a place:   sum of P,  P^T P

Of a conv that goes over its first axis in single steps, the taps at rows a and b of the kernel read the same rows of
the image, b - a apart, but for those at its ends. So one product of rows, for each b - a, has all pairs: of a 3 x 3
kernel three products of a third of the columns each, a third of the work.
"""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch

from fxprune.facts.input_statistics import Geometry


class PatchSums(NamedTuple):
    """Sums over so many places: of patches (groups, columns), of products (groups, columns, columns); float64."""

    first: torch.Tensor
    second: torch.Tensor
    places: int


def patch_sums(geometry: Geometry, x: torch.Tensor) -> PatchSums:
    """Return the sums of what a layer reads of ``x``."""
    is_conv = geometry.kind == "conv" and geometry.kernel[0] > 1
    if is_conv and geometry.stride[0] == 1 and x.dim() == len(geometry.kernel) + 2:
        return _by_rows(geometry, x)
    rows = geometry.patches(x).double()
    return PatchSums(rows.sum(1), rows.mT @ rows, rows.shape[1])


def _by_rows(geometry: Geometry, x: torch.Tensor) -> PatchSums:
    taps, step = geometry.kernel[0], geometry.dilation[0]
    lines = copy(geometry)
    lines.kernel = (1, *geometry.kernel[1:])
    lines.columns = geometry.channels * math.prod(lines.kernel)
    height = x.shape[2] + sum(geometry.pads[0])
    inner = height - step * (taps - 1)
    # rows first, so that some rows are one piece of memory: (groups, rows, samples and places in a row, columns)
    z = torch.unflatten(lines.patches(x), 1, (x.shape[0], height, -1)).transpose(1, 2).flatten(2, 3).double()
    sizes = (geometry.channels, taps, lines.columns // geometry.channels)
    second = z.new_empty(geometry.groups, *sizes, *sizes)
    for apart in range(taps):
        between = _products(z, 0, height - step * apart, step * apart)
        for one in range(taps - apart):
            other, first = one + apart, one * step
            ends = _products(z, 0, first, step * apart)
            ends += _products(z, first + inner, height - step * apart, step * apart)
            block = (between - ends).view(-1, sizes[0], sizes[2], sizes[0], sizes[2])
            second[:, :, one, :, :, other] = block
            second[:, :, other, :, :, one] = block.permute(0, 3, 4, 1, 2)
    sums = z.sum(2)
    of_taps = [sums[:, one * step : one * step + inner].sum(1) for one in range(taps)]
    sums = torch.stack([one.view(-1, sizes[0], sizes[2]) for one in of_taps], dim=2)
    columns = (geometry.groups, geometry.columns)
    return PatchSums(
        sums.reshape(columns),
        second.view(*columns, geometry.columns),
        inner * z.shape[2],
    )


def _products(z: torch.Tensor, start: int, end: int, apart: int) -> torch.Tensor:
    """Return the products of the rows from ``start`` to ``end`` and of those ``apart`` from them."""
    return z[:, start:end].flatten(1, 2).mT @ z[:, start + apart : end + apart].flatten(1, 2)
