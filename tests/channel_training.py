"""A small network with channels that can go, as the tests of their training share it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

import fxprune
from fxprune.pipelines.chains import insert_scales


class Block(nn.Module):
    """A residual block that is narrower inside."""

    def __init__(self, width: int, inner: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), norm(inner)
        self.second, self.norm2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


class Blocks(nn.Module):
    """A stem, two blocks and a classifier: three groups of channels."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.two = Block(16, 8, norm), Block(16, 16, norm)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(self.one(self.stem(x)))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def gated(
    what: str = "channels", seed: int = 0, norms: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> fx.GraphModule:
    """Return the graph of :class:`Blocks` with gates, in float64."""
    torch.manual_seed(seed)
    model = Blocks(norms).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    traced = fxprune.trace(model, torch.randn(8, 3, 8, 8).double())
    return insert_scales(traced, what=what).graph_module
