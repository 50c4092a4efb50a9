"""How much an output of a linear layer would miss of an input, by what is asked.

    weight         W_ij^2
    activation     W_ij^2 E[x_j^2]
    cap            W_ij (W S)_ij,    S = cov(x):  its sum over j is the variance of output i

The last shares the quadratic of CaP (Xie et al., arXiv 2108.13728), W S W^T, out to the inputs (the sharing is ours):
an input that others make up for has little of it, or less than nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fxprune.choosing.partitions.base import Mass
from fxprune.ir.weight_blocks import Assignment

By = Literal["weight", "activation", "cap"]
_AT_ONCE = 1 << 24


@torch.no_grad()
def mass_of(layer: nn.Linear, by: By, read: torch.Tensor | None, units: Assignment) -> Mass:
    """Return the mass of a layer, (out, units); that of a unit is the sum over its inputs.

    Args:
        layer: the layer, (out, in).
        by: what counts.
        read: what it reads, as rows, (samples, in); None by weight.
        units: the unit of each input, (in,).
    """
    into = torch.from_numpy(units)
    count = int(units.max()) + 1
    weight = layer.weight.detach()
    parts = torch.split(weight, max(1, _AT_ONCE // weight.shape[1]))
    rows = [_by_unit(_mass(one.cpu().double(), by, read), into, count) for one in parts]
    found: Mass = torch.cat(rows).numpy()
    return found


def _mass(weight: torch.Tensor, by: By, read: torch.Tensor | None) -> torch.Tensor:
    if by == "weight" or read is None:
        return weight.square()
    if by == "activation":
        return weight.square() * read.double().square().mean(0)
    centred = read.double() - read.double().mean(0)
    return weight * ((weight @ centred.T) @ centred / len(centred))


def _by_unit(mass: torch.Tensor, units: torch.Tensor, count: int) -> torch.Tensor:
    if count == mass.shape[1]:
        return mass
    return mass.new_zeros(len(mass), count).index_add_(1, units, mass)
