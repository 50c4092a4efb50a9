"""An ``autograd.Function`` as a layer, which is what a graph can hold, copy and save."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.autograd import Function

LAYER = "fxprune_layer"  # on a call that was just traced: the Applied that it calls, which the model does not hold


class Applied(nn.Module):
    """Applies ``function``, whose backward is its own; it has no weights and keeps nothing."""

    def __init__(self, function: type[Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        """Return what ``function.apply`` returns."""
        return self.function.apply(*arguments)

    def extra_repr(self) -> str:
        """Return the name of the function."""
        return self.function.__name__
