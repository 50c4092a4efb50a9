"""A squeeze-and-excitation gate: how much each channel of a value counts, told by the value itself.

    y = x * g,    g = sigmoid(W2 relu(W1 mean(x)))          mean over space; one gate a sample and channel

Hu et al., arXiv 1709.01507, as uniform channel pruning (Chang et al., arXiv 2010.01251) has it right behind a conv,
before norm and activation: W1 is C -> C / 16, W2 back, without biases; of at most 16 channels W1 is C -> 1, both with
biases [the authors' code]. It measures, and is thrown away: the mean of g over images says how much a channel counts.
"""

from __future__ import annotations

import torch
from torch import nn

REDUCTION = 16


class ChannelAttention(nn.Module):
    """Multiplies each channel by a gate in (0, 1) that is computed from the means of all channels.

    No gate of ours (:class:`fxprune.gates.base.Gated`): nothing closes it, and nothing fuses it.

    Args:
        channels: how many channels the values have, C.

    Attributes:
        channels: C.
        attention: the two linear layers with their activations, (N, C) -> (N, C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        is_narrow = channels <= REDUCTION
        hidden = 1 if is_narrow else channels // REDUCTION
        self.attention = nn.Sequential(
            nn.Linear(channels, hidden, bias=is_narrow),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=is_narrow),
            nn.Sigmoid(),
        )

    @property
    def macs(self) -> int:
        """The MACs of one sample: those of the linear layers."""
        return sum(layer.in_features * layer.out_features for layer in self.attention if isinstance(layer, nn.Linear))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``, (N, C, ...), times its gates; of its shape and dtype."""
        gates: torch.Tensor = self.attention(x.mean(tuple(range(2, x.dim()))))
        return x * gates.to(x.dtype).view(*gates.shape, *[1] * (x.dim() - 2))
