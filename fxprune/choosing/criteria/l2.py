"""How large the rows of the weights are, by their squares."""

from __future__ import annotations

from typing import ClassVar

import torch

from fxprune.choosing.criteria.rows import RowCriterion
from fxprune.choosing.criteria.weight_norm import norm_of
from fxprune.structures.gated_layers import Gate


class L2(RowCriterion):
    """sqrt(sum w^2) over a row: a filter of a conv (Li et al., arXiv 1608.08710, who compare it with L1).

    The sum of these norms over what goes together is ours. Of a conv or a branch it is that of all kernels and
    matrices that would go, as one vector.
    """

    name: ClassVar[str] = "l2"

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the L2 norm of each row."""
        norms: torch.Tensor = torch.linalg.vector_norm(rows, 2, dim=1, dtype=torch.float64)
        return norms

    def of_layer(self, layer: Gate) -> float:
        """Return the L2 norm of all that would go."""
        return norm_of(layer, 2)
