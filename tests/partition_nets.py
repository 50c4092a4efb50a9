"""Networks with heads of linear layers, for tests of partitions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

import fxprune


class ConvHead(nn.Module):
    """A conv with a norm, whose 12 channels of 2x2 places enter a head of three layers with norms and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()
        )
        self.fc1 = nn.Linear(48, 24)
        self.norm = nn.BatchNorm1d(24)
        self.fc2 = nn.Linear(24, 18)
        self.slope = nn.PReLU(18)
        self.fc3 = nn.Linear(18, 10)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.norm(self.fc1(self.trunk(x))))
        return self.fc3(self.slope(self.fc2(nn.functional.dropout(x, 0.5, self.training))))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return ``model`` with numbers in its norms and slopes that tell one feature from another, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU)):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.data.uniform_(0.2, 2, generator=generator)
    return model.eval()


def conv_head(batch: int = 4) -> fx.GraphModule:
    """Return :class:`ConvHead`, traced."""
    torch.manual_seed(0)
    return fxprune.trace(randomized(ConvHead()), torch.randn(batch, 3, 8, 8))


def mlp(*widths: int, batch: int = 4) -> fx.GraphModule:
    """Return a net of linear layers of these widths with ReLU between them, traced."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for ins, outs in pairwise(widths):
        layers += [nn.Linear(ins, outs), nn.ReLU()]
    return fxprune.trace(nn.Sequential(*layers[:-1]).eval(), torch.randn(batch, widths[0]))
