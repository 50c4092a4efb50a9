"""Gates of channels: one scale a class of channels, multiplied into the columns of the weights that read them.

    y = conv(x; W)   ->   y = conv(x; W * g[columns])          g: one scale a class, 1 at insertion

At 0 nothing of a channel reaches anybody, whatever lies between the layer that makes it and those that read it: a
bias, the shift of a norm, sigmoid(0). The weight itself is never written to. Where two activations are multiplied
there is no weight: one of them is multiplied just before. Gates at columns, and not behind the layer that makes a
channel, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fxprune.gates.base import Gated
from fxprune.gates.gate import CLOSED, OPEN, RESTING, ScaledLayer
from fxprune.weights.slicing import note_slice

CLOSED_CLASS = -(2.0**40)
"""What stands in a gate for a class that is closed for good."""
_LEAST = -(2.0**20)
_TRANSPOSED: dict[Any, Any] = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
    nn.ConvTranspose3d: functional.conv_transpose3d,
}


class ChannelScale(ScaledLayer):
    """The scales of one group of channels; a call returns them, and takes nothing.

    A class that is closed for good has -2^40 in its place in the gate, which is read as 0: so it is closed in
    averages of copies too (an EMA of the parameters), from the first one on.

    Args:
        width: how many classes the group has.
        like: a tensor on the device where the scales shall be.

    Attributes:
        gate: (width,), trainable, in [0, 1]: the share of each class that is left.
    """

    kind, fused_by = "channels", "FuseChannelGate"
    operands = 0
    units = ()

    def __init__(self, width: int, like: torch.Tensor) -> None:
        super().__init__()
        history = self._begin(like)
        self.gate = nn.Parameter(history.new_ones(width))

    @property
    def trained_scale(self) -> nn.Parameter:
        """The parameter that shrinking acts on: the gate."""
        return self.gate

    @property
    def effective_scales(self) -> torch.Tensor:
        """The scale of each class; (width,), detached."""
        scales: torch.Tensor = self().detach().abs()
        return scales

    @property
    def effective_scale(self) -> float:
        """Their mean."""
        return float(self.effective_scales.mean())

    def coefficients(self, *weights: torch.Tensor) -> tuple[float, float]:
        """Return the mean scale; there is no shortcut."""
        return self.effective_scale, 0.0

    @torch.no_grad()
    def set_scale(self, scale: torch.Tensor | None, shortcut: torch.Tensor | None, *weights: torch.Tensor) -> None:
        """Set the scales, (width,); opens the gate."""
        assert scale is not None, "it has no shortcut that could be set alone"
        self._open()
        self.gate.copy_(scale)

    @torch.no_grad()
    def wake(self, *weights: torch.Tensor) -> None:
        """Open the gate for training, all scales at 1."""
        self._open()
        self.gate.fill_(1)

    def _open(self) -> None:
        if self.closed or self.resting:
            self._enter(OPEN)
            self.train_scale(True)

    def rest(self) -> None:
        """Have all scales be 1 until :meth:`wake`, and train none."""
        self.train_scale(False)
        self._enter(RESTING)

    @torch.no_grad()
    def close(self) -> None:
        """Set all scales to zero for good, and train none."""
        self.gate.zero_()
        self._enter(CLOSED)
        self.train_scale(False)

    @property
    def closed_classes(self) -> torch.Tensor:
        """Which classes are closed for good; (width,), bool."""
        return self.gate.detach() < _LEAST

    @torch.no_grad()
    def close_classes(self, places: Sequence[int]) -> None:
        """Set the scales of the classes at ``places`` to zero for good."""
        if places:
            self.gate[list(places)] = CLOSED_CLASS

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """Move all scales that are not closed towards zero, and not beyond."""
        self.gate.copy_(torch.where(self.closed_classes, self.gate, (self.gate - amount).clamp(0, 1)))

    def penalty(self) -> torch.Tensor:
        """Return the L1 norm of the scales, differentiable; a scalar."""
        scales: torch.Tensor = self()
        return scales.sum()

    def with_classes(self, kept: torch.Tensor) -> ChannelScale:
        """Return the gate of the classes at the places ``kept``."""
        made = ChannelScale(len(kept), self.gate)
        made.history.copy_(self.history)
        with torch.no_grad():
            made.gate.copy_(self.gate[kept])
        made.train(self.training).follow()
        made.gate.requires_grad_(self.gate.requires_grad)
        note_slice(self.gate, made.gate, {0: kept})
        note_slice(self.history, made.history, {})
        return made

    def forward(self) -> torch.Tensor:
        """Return the scales, (width,)."""
        state = self._standing()[1]
        if state == CLOSED:
            return torch.zeros_like(self.gate)
        if state == RESTING:
            return torch.ones_like(self.gate)
        return self.gate.masked_fill(self.gate < _LEAST, 0.0)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"width={self.width}"


class _Reading(Gated):
    """What multiplies by the scales that it is called with, behind its operand.

    Attributes:
        index: (layers, columns): for each column the places, in 1 and all scales one after the other, of those
            whose product it is multiplied with. No buffer: averages of buffers would round whole numbers down.
    """

    fused_by = "FuseChannelGate"

    def __init__(self, index: torch.Tensor, axis: int) -> None:
        super().__init__()
        self.index, self.axis = index, axis

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move it, with its places."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.index = fn(self.index)
        return self

    def factor(self, rank: int, scales: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the factor of each column, along :attr:`axis` of ``rank`` axes."""
        known = torch.cat((scales[0].new_ones(1), *scales))
        factor = known[self.index[0]] if len(self.index) == 1 else known[self.index].prod(0)
        shape = [1] * rank
        shape[self.axis] = -1
        return factor.view(shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"columns={self.index.shape[1]}, axis={self.axis}"


class ScaledColumns(_Reading):
    """A conv or a linear layer whose columns are multiplied by scales: ``layer(x; W * g)``."""

    wraps = "layer"

    def __init__(self, layer: nn.Module, index: torch.Tensor, axis: int) -> None:
        super().__init__(index, axis)
        self.layer = layer

    def forward(self, x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        """Return what the layer returns of ``x``, as it takes it, with its columns times ``scales``."""
        layer: Any = self.layer
        factor = self.factor(layer.weight.dim(), scales)
        weight = layer.weight * factor.to(layer.weight.dtype)
        if isinstance(layer, nn.Linear):
            return functional.linear(x, weight, layer.bias)
        convolve = _TRANSPOSED.get(type(layer))
        if convolve is None:
            return layer._conv_forward(x, weight, layer.bias)  # type: ignore[no-any-return]
        settings = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return convolve(x, weight, layer.bias, *settings)  # type: ignore[no-any-return]


class ScaledAxis(_Reading):
    """A tensor, multiplied along one axis: an activation before a product, a weight before its function."""

    def forward(self, x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        """Return ``x`` times ``scales``; of its shape."""
        return x * self.factor(x.dim(), scales).to(x.dtype)
