"""A small network with images that it has all right, and searches for blends of it that take no second."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune.passes import RemoveChannels
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.blend.search import BlendSettings

NORMED, PLAIN = "one", "two"
"""The groups: 10 channels behind a batch norm, 8 without."""
POOL = ("l1", "l2", "bn-gamma", "taylor")
QUICK = BlendSettings(population=4, generations=3, pool=POOL)
L1 = {NORMED: {"l1": 1.0}, PLAIN: {"l1": 1.0}}
Data = list[tuple[torch.Tensor, torch.Tensor]]


class Pictured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.two = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.one(x)))
        logits: torch.Tensor = self.head(functional.silu(self.two(y)).mean((2, 3)))
        return logits


def pictured(count: int = 96) -> tuple[fx.GraphModule, Data]:
    """Return a graph and batches of images, each with the class that the graph says."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 2, 6, 6, generator=generator)
    torch.manual_seed(0)
    model = Pictured().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(-2, 2)
        model.head.bias.sub_(model(images).mean(0))  # so that it says every class
        labels = model(images).argmax(1)
    graph = fxprune.trace(model, images[:4])
    return graph, list(zip(torch.split(images, 40), torch.split(labels, 40), strict=True))


def judged(step: RemoveChannels | None = None, **given: Any) -> Judge:
    graph, data = pictured()
    return Judge.of(graph, data, step or RemoveChannels(ratio=0.5), **{"pool": POOL, **given})
