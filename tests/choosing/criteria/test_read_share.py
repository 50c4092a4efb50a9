"""The share of a channel in what its readers compute."""

from __future__ import annotations

import pytest
import torch
from channel_nets import NETS
from channel_training import Blocks
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.choosing.channel_scores import site_scores
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import channel_sites

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def test_by_hand() -> None:
    torch.manual_seed(0)
    model = Blocks().double().eval()
    with torch.no_grad():
        model.one.second.weight[:, 2] = 0
        inner = torch.relu(model.one.norm1(model.one.first(model.stem(IMAGES))))
        energy = inner.square().sum((0, 2, 3)) * model.one.second.weight.square().sum((0, 2, 3))
    graph = fxprune.trace(model, IMAGES)
    sites = {site.path: site for site in channel_sites(graph)}
    batches = Samples.of(graph, [IMAGES[:3], IMAGES[3:]])
    found = site_scores(graph, list(sites.values()), "read-share", batches)
    scores = dict(zip(sites, found, strict=True))
    assert scores["one.first"] == pytest.approx((energy / energy.sum()).numpy())
    assert scores["one.first"][2] == 0
    assert scores["stem"].sum() == pytest.approx(3)  # two blocks and the classifier read it


class Grouped(nn.Module):
    """A grouped conv by a layer, and one by a function, whose channels go together in each group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
        self.two = nn.Parameter(torch.randn(6, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(self.one(self.stem(x)), self.two, groups=2)


def test_columns_of_groups() -> None:
    torch.manual_seed(0)
    model = Grouped().double().eval()
    graph = fxprune.trace(model, IMAGES)
    sites = {site.path: site for site in channel_sites(graph)}
    found = dict(zip(sites, site_scores(graph, list(sites.values()), "read-share"), strict=True))
    with torch.no_grad():
        x = model.stem(IMAGES).square().sum((0, 2, 3)).view(2, 4)
        y = model.one(model.stem(IMAGES)).square().sum((0, 2, 3)).view(2, 4)
        first = (x * model.one.weight.view(2, 4, 4, 9).square().sum((1, 3))).sum(0)
        second = (y * model.two.view(2, 3, 4).square().sum(1)).sum(0)
    assert found["stem"] == pytest.approx((first / first.sum()).numpy())
    assert found["one"] == pytest.approx((second / second.sum()).numpy())


@pytest.mark.parametrize("name", sorted(NETS))
def test_any_network_has_finite_shares(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    graph = fxprune.trace(model.eval(), inputs)
    for site, scores in zip(sites := channel_sites(graph), site_scores(graph, sites, "read-share"), strict=True):
        assert scores.shape == (site.width,)
        assert (scores >= 0).all()
