"""What ResConvs and BranchScales share: a trained scale, which may be closed for good, or rest until its turn."""

from __future__ import annotations

import torch
from torch import nn

_SMALLEST_SIZE = 0.1  # a zero-initialised norm has no size to divide by


def size_of(weight: torch.Tensor) -> torch.Tensor:
    """Return the size that ``weight`` gives what it is multiplied with; a scalar, at least 0.1.

    Of a vector (a norm's gamma, a layer scale, in whatever shape) the rms, of a kernel the rms of its filters' L2
    norms. Worked out in float32 whatever the dtype, so that it is the same number in every copy.
    """
    filters = weight.shape[0] if weight.dim() > 1 and weight.numel() > max(weight.shape) else weight.numel()
    size: torch.Tensor = torch.linalg.vector_norm(weight.float()) / filters**0.5
    return size.clamp(min=_SMALLEST_SIZE)


class ScaledLayer(nn.Module):
    """A layer with a scale that shrinking acts on; its state dict tells whether it is closed, or rests."""

    closed: bool = False
    resting: bool = False

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on."""
        raise NotImplementedError

    @property
    def effective_scale(self) -> float:
        """The size of the scale, comparable between layers: 1 at insertion, 0 where the layer does nothing."""
        raise NotImplementedError

    def get_extra_state(self) -> torch.Tensor:
        """Return what ``state_dict`` holds beside parameters and buffers: (closed, resting)."""
        return torch.tensor([self.closed, self.resting])

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take over what :meth:`get_extra_state` returned."""
        was_open = not (self.closed or self.resting)
        self.closed, self.resting = state.tolist()
        is_open = not (self.closed or self.resting)
        if is_open != was_open:
            self.trained_scale.requires_grad_(is_open)
