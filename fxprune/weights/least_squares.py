"""Least squares of what layers compute, from sums over many samples.

min over D, d of   E |r - D x - d|^2 + l |D|^2      x: what the layer reads, r: what it misses of its target
D = cov(r, x) (cov(x, x) + l)^-1,   d = E r - D E x          l = ridge * mean of the variances of x

The weights are W + D: a large l leaves them as they are. (CaP, Xie et al., arXiv 2108.13728, is the case of l = 0;
that the ridge draws to the weights, and not to zero, is ours.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fxprune.errors import FxpruneError

_NOT_FINITE = "what it reads or computes holds NaN or infinity on these images"
_RANK = 1e-12
"""Without a ridge, what is this small beside the largest variance is taken for no direction."""
_CANCELLED = 32 * torch.finfo(torch.float64).eps
"""Of a mean square so much is rounding, which is left where a mean is taken off."""


class Fit(NamedTuple):
    """What is added to weights (G, rows, columns) and biases (G, rows), and the mean squares of r before and after.

    ``total`` is the variance of the target; all sums over rows. ``rank`` is that of what is read.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    before: float
    after: float
    total: float
    rank: int


class Moments:
    """Sums of x, r and their products, streamed in float64, for each of G groups of a layer.

    Args:
        groups, columns, rows: how many there are; x is (G, samples, columns), r (G, samples, rows).
    """

    def __init__(self, groups: int, columns: int, rows: int, device: torch.device | None = None) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.count = 0
        self.xx, self.rx = zeros(columns, columns), zeros(rows, columns)
        self.x, self.r, self.rr = zeros(columns), zeros(rows), zeros(rows)
        self.y, self.yy = zeros(rows), zeros(rows)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All sums: what processes add up."""
        return self.xx, self.rx, self.x, self.r, self.rr, self.y, self.yy

    def add(self, x: torch.Tensor, r: torch.Tensor, y: torch.Tensor) -> None:
        """Add samples: what is read (G, n, columns), what is missed and the target (G, n, rows each)."""
        x, r, y = x.double(), r.double(), y.double()
        self.count += x.shape[1]
        self.xx += x.transpose(1, 2) @ x
        self.rx += r.transpose(1, 2) @ x
        self.x += x.sum(1)
        self.r += r.sum(1)
        self.rr += r.square().sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)

    def fit(self, ridge: float) -> Fit:
        """Return the least squares.

        Raises FxpruneError if a sum is not finite.
        """
        if not all(bool(one.isfinite().all()) for one in self.tensors):
            raise FxpruneError(_NOT_FINITE)
        n = float(max(self.count, 1))
        x, r = self.x / n, self.r / n
        xx = self.xx / n - x.unsqueeze(2) * x.unsqueeze(1)
        rx = self.rx / n - r.unsqueeze(2) * x.unsqueeze(1)
        level = ridge * xx.diagonal(dim1=1, dim2=2).mean(1)
        cancelled = _CANCELLED * self.xx.diagonal(dim1=1, dim2=2).sum(1) / n
        weight, rank = _solved(xx, rx, level, cancelled)
        bias = r - (weight @ x.unsqueeze(2)).squeeze(2)
        of_r = float((self.rr / n).sum())
        explained = 2 * (weight * rx).sum() - ((weight @ xx) * weight).sum() + r.square().sum()
        total = float((self.yy / n - (self.y / n).square()).sum())
        return Fit(weight, bias, of_r, max(of_r - float(explained), 0.0), total, rank)


class Rows:
    """The same for a layer with more inputs than there are samples: these are kept, (1, n, columns), and solved for.

    D = R^T (X X^T + n l)^-1 X
    """

    def __init__(self) -> None:
        self._parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(x.shape[1] for x, _, _ in self._parts)

    def add(self, x: torch.Tensor, r: torch.Tensor, y: torch.Tensor) -> None:
        """Add samples, as :meth:`Moments.add`."""
        self._parts.append((x, r, y))

    def fit(self, ridge: float) -> Fit:
        """Return the least squares, as :meth:`Moments.fit`; without a ridge the smallest of all that fit."""
        x, r, y = (torch.cat(parts, 1).double() for parts in zip(*self._parts, strict=True))
        if not all(bool(one.isfinite().all()) for one in (x, r, y)):
            raise FxpruneError(_NOT_FINITE)
        n = x.shape[1]
        means = x.mean(1), r.mean(1)
        x, rest = x - means[0].unsqueeze(1), r - means[1].unsqueeze(1)
        gram = x @ x.transpose(1, 2) / n
        level = x.square().sum((1, 2)) / (n * x.shape[2]) * ridge
        dual, rank = _solved(gram, rest.transpose(1, 2), level, torch.zeros_like(level))
        weight = dual @ x / n
        bias = means[1] - (weight @ means[0].unsqueeze(2)).squeeze(2)
        left = rest - x @ weight.transpose(1, 2)
        before, after, of_y = (_mean_square(one) for one in (r, left, y - y.mean(1, keepdim=True)))
        return Fit(weight, bias, before, after, of_y, rank)


def _mean_square(rows: torch.Tensor) -> float:
    return float(rows.square().sum() / rows.shape[1])


def _solved(xx: torch.Tensor, rx: torch.Tensor, level: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return rx (xx + level)^-1 for each group, and the smallest rank; what is below ``noise`` is no direction."""
    size = xx.shape[-1]
    if bool((level > noise).all()):
        ridge = level.view(-1, 1, 1) * torch.eye(size, dtype=xx.dtype, device=xx.device)
        factor, failed = torch.linalg.cholesky_ex(xx + ridge)
        if not bool(failed.any()):
            return torch.cholesky_solve(rx.transpose(1, 2), factor).transpose(1, 2), size
    values, vectors = torch.linalg.eigh(xx)
    tiny = torch.finfo(torch.float64).tiny
    least = torch.maximum(_RANK * values.amax(1), noise).clamp_min(tiny).unsqueeze(1)
    is_direction = values > least
    shrunk = values + level.unsqueeze(1)
    inverse = torch.where(is_direction, 1 / shrunk.where(is_direction, torch.ones_like(values)), 0)
    found = ((rx @ vectors) * inverse.unsqueeze(1)) @ vectors.transpose(1, 2)
    return found, int(is_direction.sum(1).min())
