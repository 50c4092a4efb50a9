"""A small residual network on handwritten digits, for tests of training in this process and in others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

import fxprune
from fxprune.pipelines.chains import insert_scales
from fxprune.training.data import ImageData, sample_inputs


class Block(nn.Module):
    """A residual block of two convs."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 8, 3, padding=1)
    return nn.Sequential(stem, *(Block(norm) for _ in range(3)), nn.Dropout(0.1), nn.Flatten(), nn.Linear(512, 10))


def sparse_network(data: ImageData, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> fx.GraphModule:
    return insert_scales(fxprune.trace(network(norm), sample_inputs(data, 8)), "all").graph_module
