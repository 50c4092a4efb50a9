"""Mean and variance of each channel, streamed in float64."""

from __future__ import annotations

import torch


class ChannelMoments:
    """Of values (N, C, ...), given one after the other.

    Sums are taken around ``origin``, (C,), so that little cancels: a guess of the means.
    """

    def __init__(self, origin: torch.Tensor) -> None:
        self._origin = origin.detach().double()
        self.sums = tuple(torch.zeros_like(self._origin) for _ in range(3))

    def add(self, value: torch.Tensor) -> None:
        """Add a value."""
        axes = [0, *range(2, value.dim())]
        wide = value.detach().double() - self._origin.view(1, -1, *[1] * (value.dim() - 2))
        count, first, second = self.sums
        count += value.numel() // value.shape[1]
        first += wide.sum(axes)
        second += wide.square().sum(axes)

    @property
    def mean(self) -> torch.Tensor:
        """The means; (C,), float64."""
        count, first, _ = self.sums
        return self._origin + first / count

    @property
    def variance(self) -> torch.Tensor:
        """The variances, over one less than there are, as torch's running ones; (C,), float64."""
        count, first, second = self.sums
        return (second - first.square() / count).clamp_min(0) / (count - 1).clamp_min(1)
