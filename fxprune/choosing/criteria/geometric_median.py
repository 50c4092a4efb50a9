"""How far the rows of the weights are from all others: what is near them can be made up for."""

from __future__ import annotations

from typing import ClassVar

import torch

from fxprune.choosing.criteria.rows import RowCriterion

_COLUMNS = 4096  # of a weight are in float64 at a time


class GeometricMedian(RowCriterion):
    """sum_j |F_i - F_j| over all rows j of a weight: FPGM (He et al., arXiv 1811.00250).

    The rows nearest to the geometric median of their layer have the least, whatever their size. The sum over the
    layers of what goes together is ours.
    """

    name: ClassVar[str] = "fpgm"
    one_by_one: ClassVar[bool] = False

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of each row's distances from all rows: |a - b|^2 = a'a + b'b - 2a'b."""
        products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for first in range(0, rows.shape[1], _COLUMNS):
            part = rows[:, first : first + _COLUMNS].double()
            products += part @ part.T
        squares = products.diagonal()
        distances = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt()
        return distances.fill_diagonal_(0).sum(1)
