"""What ResConvs and BranchScales keep of a gate beside tensors: whether it is closed, and whether its layer rests."""

from __future__ import annotations

import torch
from torch import nn


class GateState(nn.Module):
    """A module with a gate; its state dict tells whether the gate is closed, and whether the layer rests."""

    closed: bool = False
    resting: bool = False

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on."""
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
