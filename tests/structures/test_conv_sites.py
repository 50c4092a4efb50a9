"""Eligibility on real networks, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from helpers import Wrapped, example, traced
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.costs.macs import total_macs, total_params
from fxprune.structures.conv_sites import find_conv_sites
from fxprune.training.cifar_resnet import CifarResNet


@pytest.mark.parametrize(("depth", "macs", "params", "removable"), [(20, 40.55, 0.270, 16), (56, 125.49, 0.853, 52)])
def test_cifar_resnets(depth: int, macs: float, params: float, removable: int) -> None:
    graph = fxprune.trace(CifarResNet(depth), torch.randn(2, 3, 32, 32))
    eligible = [site for site in find_conv_sites(graph) if site.eligible]
    assert len(eligible) == removable
    assert {site.macs for site in eligible} == {2_359_296}
    assert round(total_macs(graph) / 1e6, 2) == macs
    assert round(total_params(graph) / 1e6, 3) == params


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), "it changes the channels (4 -> 8)"),
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), "its stride is 2x2"),
        (nn.Conv2d(4, 4, 3), "it changes the shape (2x4x9x9 -> 2x4x7x7)"),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), "is a transposed convolution"),
    ],
)
def test_reasons(layer: nn.Module, reason: str) -> None:
    (site,) = find_conv_sites(traced(nn.Sequential(layer), example(2, 4, 9, 9)))
    assert site.reason == reason


def test_complex_weights_are_refused() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, dtype=torch.complex64)
    images = torch.randn(2, 4, 9, 9, dtype=torch.complex64)
    for model in (nn.Sequential(layer), Wrapped(lambda m, x: functional.conv2d(x, m.c.weight, padding=1), c=layer)):
        (site,) = find_conv_sites(fxprune.trace(model, images))
        assert "complex numbers" in str(site.reason)


def test_convs_inside_an_opaque_module_are_listed() -> None:
    graph = traced(Wrapped(lambda m, x: m.inner(x), inner=nn.Identity()), example(2, 4, 9, 9))
    opaque = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    graph.inner = opaque
    (site,) = find_conv_sites(graph)
    assert site.path == "inner.0"
    assert "opaque module" in str(site.reason)
