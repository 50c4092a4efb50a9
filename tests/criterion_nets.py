"""A small network in float64 whose channels are scored by hand: two groups, one of two layers, norms and readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune.choosing.criteria.base import Criterion
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import ChannelSite, channel_sites
from fxprune.structures.channels.running import Worth

CLASSES = 3
STREAM, MIDDLE = "one", "three"
"""The groups: 4 channels that ``one`` and ``two`` make together, and ``two`` and ``three`` read; 5 of ``three``."""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(ins, 4, 3, padding=1) for ins in (2, 4))
        self.norm_one, self.norm_two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.three = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """Return what ``two`` reads."""
        return torch.relu(self.norm_one(self.one(x)))

    def second(self, y: torch.Tensor) -> torch.Tensor:
        """Return what ``three`` reads."""
        return torch.relu(y + self.norm_two(self.two(y)))

    def third(self, z: torch.Tensor) -> torch.Tensor:
        """Return what ``head`` reads."""
        return torch.relu(self.three(z)).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.third(self.second(self.first(x))))
        return logits


def small(count: int = 6) -> tuple[Small, fx.GraphModule, torch.Tensor, torch.Tensor]:
    """Return the network, its graph, images and labels."""
    torch.manual_seed(0)
    model = Small().double().eval()
    with torch.no_grad():
        for norm in (model.norm_one, model.norm_two):
            norm.weight.uniform_(-1, 1)
            norm.bias.uniform_(-1, 1)
    images = torch.randn(count, 2, 6, 6, dtype=torch.float64)
    return model, fxprune.trace(model, images), images, torch.randint(0, CLASSES, (count,))


def scores(graph: fx.GraphModule, criterion: Criterion, data: Any = None) -> dict[str, Worth]:
    """Return what ``criterion`` gives the channels of each group."""
    sites = channel_sites(graph)
    with criterion.measuring(graph, sites, Samples.of(graph, data)) as missed:
        return {site.path: missed(site) for site in sites}


def site_of(graph: fx.GraphModule, path: str) -> ChannelSite:
    return next(one for one in channel_sites(graph) if one.path == path)


@contextmanager
def scaled(model: Small, group: str, channel: int, by: float) -> Iterator[None]:
    """Inside, all columns that read a channel are multiplied."""
    layers: list[Any] = [model.two, model.three] if group == STREAM else [model.head]
    before = [layer.weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight[:, channel] *= by
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, before, strict=True):
                layer.weight.copy_(weight)


def slopes(model: Small, images: torch.Tensor, labels: torch.Tensor, group: str, channel: int) -> torch.Tensor:
    """Return d loss / d g of each image at g = 1, the factor of a channel where it is read, by differences."""
    step = 1e-5
    found = []
    for by in (1 + step, 1 - step):
        with scaled(model, group, channel, by), torch.no_grad():
            found.append(functional.cross_entropy(model(images), labels, reduction="none"))
    return (found[0] - found[1]) / (2 * step)


WIDTHS = {STREAM: 4, MIDDLE: 5}
