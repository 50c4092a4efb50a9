"""An ``autograd.Function`` as a layer, which is what a graph can hold, copy and save."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function

LAYER = "fxprune_layer"  # on a call that was just traced: the Applied that it calls, which the model does not hold


class Applied(nn.Module):
    """Applies ``function``, whose backward is its own; it has no weights and keeps nothing.

    Attributes:
        keeps_shape: whether it returns a tensor of its first argument's shape, as an activation does; where that was
            so on the example, another shape is refused, so that it is so for every input.
    """

    def __init__(self, function: type[Function]) -> None:
        super().__init__()
        self.function = function
        self.keeps_shape = False

    def forward(self, *arguments: Any) -> Any:
        """Return what ``function.apply`` returns."""
        result = self.function.apply(*arguments)
        if self.keeps_shape:
            message = (
                f"{self.function.__name__} returned another shape than it was given, as it did not on the example"
            )
            torch._assert(result.shape == arguments[0].shape, f"{message}: trace the model on inputs like these")
        return result

    def extra_repr(self) -> str:
        """Return the name of the function."""
        return self.function.__name__
