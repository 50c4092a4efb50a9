"""How far the rows of the weights are from all others: what is near them can be made up for."""

from __future__ import annotations

from typing import ClassVar

import torch

from fxprune.choosing.criteria.rows import RowCriterion


class GeometricMedian(RowCriterion):
    """sum_j |F_i - F_j| over all rows j of a weight: FPGM (He et al., arXiv 1811.00250).

    The rows nearest to the geometric median of their layer have the least, whatever their size. The sum over the
    layers of what goes together is ours.
    """

    name: ClassVar[str] = "fpgm"

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of each row's distances from all rows."""
        return torch.cdist(rows.double(), rows.double()).sum(1)
