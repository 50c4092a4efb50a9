"""Small images decoded once and kept on one device, where they are shifted and mirrored a batch at a time.

On a GPU, decoding images of 32 x 32 pixels takes longer than training on them.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Dataset


class InMemory(Dataset[Any]):
    """Images as a data set of (normalised image, label), and whole batches of them at once.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,).
        mean: of each channel, for values between 0 and 1.
        std: likewise.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.images, self.labels = images, labels
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)
        self._seed: int | None = None
        self._moves = torch.empty(0)

    def to(self, device: torch.device) -> InMemory:
        """Return the same images on ``device``."""
        moved = copy.copy(self)
        moved.images, moved._mean, moved._std = (tensor.to(device) for tensor in (self.images, self._mean, self._std))
        moved._seed = None
        return moved

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._normalised(self.images[index]), self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch, not a list of samples: torch's loader hands it on as it is."""
        chosen = torch.as_tensor(indices)
        return self._normalised(self.images[chosen.to(self.images.device)]), self.labels[chosen]

    def augmented(self, indices: Sequence[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch, each image shifted by up to an eighth of its side and mirrored or not.

        How depends on ``seed`` and the image's index alone.
        """
        chosen = torch.as_tensor(indices)
        device = self.images.device
        side = self.images.shape[-1]
        pad = side // 8
        if self._seed != seed:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}".encode()))
            reach = torch.tensor([2 * pad + 1, 2 * pad + 1, 2])
            self._moves = (torch.rand(len(self), 3, generator=generator) * reach).long().to(device)
            self._seed = seed
        down, right, mirrored = self._moves[chosen.to(device)].unbind(1)
        steps = torch.arange(side, device=device)
        rows, columns = down[:, None] + steps, right[:, None] + steps
        columns = torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
        padded = functional.pad(self.images[chosen.to(device)], (pad, pad, pad, pad))
        which = torch.arange(len(chosen), device=device)[:, None, None]
        crops = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
        return self._normalised(crops.permute(0, 3, 1, 2)), self.labels[chosen]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - self._mean) / self._std
