"""Sums of patches, without patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.facts.input_statistics import Geometry
from fxprune.facts.patch_products import patch_sums
from fxprune.ops.call import Call

LAYERS: dict[str, Any] = {
    "3 x 3": lambda: (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 6)),
    "no padding": lambda: (nn.Conv2d(4, 6, 3), (2, 4, 7, 6)),
    "small image": lambda: (nn.Conv2d(4, 6, 5, padding=2), (2, 4, 3, 3)),
    "grouped": lambda: (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 7, 6)),
    "dilated": lambda: (nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(2, 3)), (2, 4, 7, 6)),
    "strided along the second axis": lambda: (nn.Conv2d(4, 6, 3, stride=(1, 2), padding=1), (2, 4, 7, 6)),
    "strided": lambda: (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 6)),
    "even, same": lambda: (nn.Conv2d(4, 6, (4, 1), padding="same"), (2, 4, 7, 6)),
    "circular": lambda: (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 6)),
    "1d": lambda: (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
    "3d": lambda: (nn.Conv3d(4, 6, 3, padding=1), (2, 4, 3, 4, 5)),
    "1 x 1": lambda: (nn.Conv2d(4, 6, 1), (2, 4, 7, 6)),
    "transposed": lambda: (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (2, 4, 5, 6)),
    "linear": lambda: (nn.Linear(4, 6), (2, 3, 4)),
}


def call_of(layer: nn.Module, x: torch.Tensor) -> Call:
    graph: fx.GraphModule = fxprune.trace(nn.Sequential(layer), x)
    return Call(next(iter(graph.graph.find_nodes(op="call_module"))))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
def test_are_those_of_all_patches(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]()
    layer, x = layer.double(), torch.randn(shape).double()
    geometry = Geometry(call_of(layer, x), layer.weight)
    patches = geometry.patches(x)
    first, second, places = patch_sums(geometry, x)
    assert places == patches.shape[1]
    torch.testing.assert_close(first, patches.sum(1))
    torch.testing.assert_close(second, patches.mT @ patches)
