"""Blocks of columns of linear maps, in the order in which adding them explains most of what the maps compute.

y = W x, x with covariance S; K: the columns that are there, T: a block of others. What K leaves of T, and of y by T:
    Q = S[T,T] - S[T,K] S[K,K]^-1 S[K,T],    D = W S[:,T] - W S[:,K] S[K,K]^-1 S[K,T]
    gain of T = tr(D Q^-1 D^T):   exactly how much less least squares on K and T miss of y than on K

That is the ranking of CaP (Xie et al., arXiv 2108.13728). What follows is ours: no inverse is kept, but what is left
of S, less what a block explains at a time (a block Cholesky decomposition, its products put off until some are
together); directions without variance have no part in Q^-1, by a ridge of 1e-11 of the mean squares of a block; and
several maps of the same blocks add their gains, each as a share of the variance of its output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

_RIDGE = 1e-11
_LEAST = 1e-200
_TOGETHER = 16
"""After so many blocks what they explain is taken off the covariance."""

Columns = NDArray[np.int64]


class LinearMap:
    """One map, and what of it is not explained while blocks are added. It takes three times the memory of
    ``covariance``, more or less.

    Args:
        covariance: of what it reads, (G, d, d) for G groups, float64. It is not changed.
        second: mean squares of what it reads, (G, d).
        weight: (G, rows, d), float64.
        blocks: for each block its columns, the same ones of each group, disjoint; none if it does not read the block.
            Columns that are in no block are there from the start.
    """

    def __init__(
        self, covariance: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, blocks: Sequence[Columns]
    ) -> None:
        if weight.shape[1] > weight.shape[2]:
            weight = torch.linalg.qr(weight, mode="r").R  # all that counts is W^T W
        self._size = max(1, *map(len, blocks))
        free = _padded(blocks, self._size, covariance.shape[-1])
        given = np.setdiff1d(np.arange(covariance.shape[-1]), free)
        computed = covariance @ weight.mT
        self._total = float((computed.mT * weight).sum())
        self._covariance = _taken(_taken(covariance, free, 1), free, 2)
        self._missed = _taken(computed, free, 1)
        self._ridge = _RIDGE * self._by_block(_taken(second, free, 1)).amax(2, keepdim=True)
        if len(given):
            held = _taken(_taken(covariance, given, 1), given, 2)
            root = _root(held, _RIDGE * _taken(second, given, 1).amax(1, keepdim=True))
            known = _taken(_taken(covariance, free, 1), given, 2) @ root
            self._covariance -= known @ known.mT
            self._missed -= known @ (root.mT @ _taken(computed, given, 1))
        square = torch.unflatten(self._by_block(self._covariance), 3, (-1, self._size))
        self._blocks = square.diagonal(dim1=1, dim2=3).movedim(3, 1).contiguous()
        self._pending = self._covariance[:, :, :0]
        self._place = {one: one for one in range(len(blocks))}

    def gains(self, left: Sequence[int]) -> NDArray[np.float64]:
        """Return what each of the blocks ``left`` would add, as a share of the variance of the output: (left,)."""
        if self._total <= 0:
            return np.zeros(len(left))
        missed = self._by_block(self._missed)
        root = _root(self._blocks, self._ridge)
        gains = ((root.mT @ (missed @ missed.mT)) * root.mT).sum((0, 2, 3)) / self._total
        found: NDArray[np.float64] = gains.cpu().numpy()[[self._place[one] for one in left]]
        return found

    def add(self, one: int) -> None:
        """Take note that a block is there."""
        block = self._place.pop(one)
        columns = slice(block * self._size, (block + 1) * self._size)
        root = _root(self._blocks[:, block], self._ridge[:, block])
        column = self._covariance[:, :, columns] - self._pending @ self._pending[:, columns].mT
        new = column @ root
        self._missed.baddbmm_(new, root.mT @ self._missed[:, columns], alpha=-1)
        parts = self._by_block(new)
        self._blocks -= parts @ parts.mT
        self._pending = torch.cat([self._pending, new], dim=2)
        if self._pending.shape[2] >= _TOGETHER * self._size:
            self._take_off()

    def _take_off(self) -> None:
        """Take what was explained off the covariance, and leave out the blocks that are there."""
        self._covariance.baddbmm_(self._pending, self._pending.mT, alpha=-1)
        kept = np.array(list(self._place.values()), dtype=np.int64)
        columns = (kept[:, None] * self._size + np.arange(self._size)).ravel()
        self._covariance = _taken(_taken(self._covariance, columns, 1), columns, 2)
        self._missed = _taken(self._missed, columns, 1)
        self._blocks, self._ridge = _taken(self._blocks, kept, 1), _taken(self._ridge, kept, 1)
        self._pending = self._covariance[:, :, :0]
        self._place = {one: place for place, one in enumerate(self._place)}

    def _by_block(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(tensor, 1, (-1, self._size))


def _padded(blocks: Sequence[Columns], size: int, none: int) -> Columns:
    """Return the columns of all blocks in a row, each filled up to ``size`` with the column ``none``."""
    found = np.full((len(blocks), size), none, dtype=np.int64)
    for row, columns in zip(found, blocks, strict=True):
        row[: len(columns)] = columns
    return found.ravel()


def _taken(tensor: torch.Tensor, places: Columns, axis: int) -> torch.Tensor:
    """Return ``tensor`` at ``places`` of an axis; one behind its end is zero."""
    size = tensor.shape[axis]
    if (places == size).any():
        tensor = functional.pad(tensor, [0, 0] * (tensor.dim() - 1 - axis) + [0, 1])
    return tensor.index_select(axis, torch.from_numpy(places).to(tensor.device))


def _root(square: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
    """Return R with R R^T the inverse of positive matrices, (..., k, k), and of ``ridge``, (..., 1), beside them."""
    size = square.shape[-1]
    identity = torch.eye(size, dtype=square.dtype, device=square.device)
    factor: torch.Tensor = torch.linalg.cholesky(square + ridge.clamp_min(_LEAST).unsqueeze(-1) * identity)
    found: torch.Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return found.mT


def lost_behind(maps: Sequence[LinearMap], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each block, what is lost without it and all that are added after it: (blocks,).

    The block with the largest gain is added first. Losses are sums of shares of variances, one a map; that of the
    first block is what is lost without any.

    Args:
        maps: of the same blocks; they are used up.
        own: what each block adds to the gain besides, whatever else is there.
    """
    left = list(range(len(own)))
    order, gains = [], []
    while left:
        gain = own[left] + sum(one.gains(left) for one in maps)
        best = int(np.argmax(gain))
        order.append(left.pop(best))
        gains.append(gain[best])
        for one in maps:
            one.add(order[-1])
    found = np.zeros(len(own))
    found[order] = np.cumsum(gains[::-1])[::-1]
    return found
