"""Memory for many new weights: to touch it for the first time takes longer than to work out what goes in."""

from __future__ import annotations

import torch

_BLOCK = 32 << 20  # bytes
_SMALL = 64 << 10
_ALIGNMENT = 64  # torch's own


class LargePages:
    """Hands out memory from blocks that come in pages of 2 MB, where the system has such.

    The blocks are numpy's: for those of 4 MB and more it asks Linux for large pages, which torch does not. A block
    lives for as long as any tensor in it. Each tensor has a storage of its own, exactly as large as it is.
    """

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what ``torch.empty_like(tensor)`` returns; small ones, and those on other devices, are just that."""
        size = tensor.numel() * tensor.element_size()
        if size < _SMALL or tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            return torch.empty_like(tensor)
        if size > len(self._rest):
            self._rest = _block(max(size, _BLOCK))
        taken = torch.from_numpy(self._rest[:size].numpy())  # which has a storage of its own
        self._rest = self._rest[size + -size % _ALIGNMENT :]
        usual = torch.empty_like(tensor, device="meta")
        return taken.view(tensor.dtype).as_strided(usual.shape, usual.stride())


def _block(size: int) -> torch.Tensor:
    import numpy  # takes long, and most graphs are small

    block = torch.from_numpy(numpy.empty(size + _ALIGNMENT, dtype=numpy.uint8))
    return block[-block.data_ptr() % _ALIGNMENT :]
