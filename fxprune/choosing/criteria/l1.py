"""How large the rows of the weights are, by their absolute values."""

from __future__ import annotations

from typing import ClassVar

import torch

from fxprune.choosing.criteria.rows import RowCriterion
from fxprune.choosing.criteria.weight_norm import norm_of
from fxprune.structures.gated_layers import Gate


class L1(RowCriterion):
    """sum |w| over a row: a filter of a conv (Li et al., arXiv 1608.08710); summed over what goes together, ours.

    Of a conv or a branch it is that of all kernels and matrices that would go.
    """

    name: ClassVar[str] = "l1"

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the L1 norm of each row."""
        norms: torch.Tensor = torch.linalg.vector_norm(rows, 1, dim=1, dtype=torch.float64)
        return norms

    def of_layer(self, layer: Gate) -> float:
        """Return the L1 norm of all that would go."""
        return norm_of(layer, 1)
