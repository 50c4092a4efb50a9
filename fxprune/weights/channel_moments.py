"""Mean and variance of each channel, streamed in float64."""

from __future__ import annotations

import torch


class ChannelMoments:
    """Of values (N, C, ...), given one after the other."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: torch.Tensor | float = 0.0
        self._squares: torch.Tensor | float = 0.0
        self._origin: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        """Add a value: sums are taken around the mean of the first one, so that nothing cancels."""
        axes = [0, *range(2, value.dim())]
        wide = value.detach().double()
        if self._origin is None:
            self._origin = wide.mean(axes)
        wide = wide - self._origin.view(1, -1, *[1] * (value.dim() - 2))
        self._count += value.numel() // value.shape[1]
        self._sum = self._sum + wide.sum(axes)
        self._squares = self._squares + wide.square().sum(axes)

    @property
    def mean(self) -> torch.Tensor:
        """The means; (C,), float64."""
        assert self._origin is not None, "nothing was added"
        return self._origin + self._sum / self._count

    @property
    def variance(self) -> torch.Tensor:
        """The variances, over one less than there are, as torch's running ones; (C,), float64."""
        found = torch.as_tensor(self._squares - torch.as_tensor(self._sum).square() / self._count)
        return found.clamp_min(0) / max(self._count - 1, 1)
