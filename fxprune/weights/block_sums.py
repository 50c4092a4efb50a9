"""Least squares inside the blocks of a layer: each on what its outputs may read.

min over D_b, d   E |r_b - D_b x_b - d|^2 + l_b |D_b|^2     for each block b; what lies across stays as it is
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxprune.weights.least_squares import Fit, Moments, Rows


class BlockSums:
    """Sums of the samples of each block, with the interface of :class:`fxprune.weights.least_squares.Moments`.

    Args:
        places: the rows and columns of each block of a layer.
        parts: sums for each of them: a block is one group.
    """

    def __init__(self, places: Sequence[tuple[torch.Tensor, torch.Tensor]], parts: Sequence[Moments | Rows]) -> None:
        self._places = places
        self.parts = parts

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.parts[0].count

    def add(self, x: torch.Tensor, r: torch.Tensor, y: torch.Tensor) -> None:
        """Add samples: what is read (1, n, columns), what is missed and the target (1, n, rows each)."""
        for (rows, columns), part in zip(self._places, self.parts, strict=True):
            mine = rows.to(x.device)
            part.add(x[..., columns.to(x.device)], r[..., mine], y[..., mine])

    def fit(self, ridge: float) -> Fit:
        """Return the least squares of all blocks as one; what lies across gets nothing."""
        fits = [part.fit(ridge) for part in self.parts]
        first = fits[0].weight
        shape = (1, *(sum(len(one) for one in side) for side in zip(*self._places, strict=True)))
        weight, bias = first.new_zeros(shape), first.new_zeros(shape[:2])
        for (rows, columns), fit in zip(self._places, fits, strict=True):
            rows, columns = rows.to(first.device), columns.to(first.device)
            weight[0, rows[:, None], columns] = fit.weight[0]
            bias[0, rows] = fit.bias[0]
        before, after, total = (sum(getattr(fit, name) for fit in fits) for name in ("before", "after", "total"))
        return Fit(weight, bias, before, after, total, min(fit.rank for fit in fits))
