from itertools import product
from typing import Any

import pytest
import torch
from helpers import module_at, randomize
from torch import nn

import fxprune
from fxprune.facts.input_statistics import Geometry
from fxprune.ops.call import Call

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SIZES = (7, 6, 8)


def assert_is_product(layer: nn.Module, x: torch.Tensor) -> None:
    """What the layer computes is its patches times its matrix."""
    graph = fxprune.trace(randomize(nn.Sequential(layer)), x)
    (node,) = graph.graph.find_nodes(op="call_module")
    own = module_at(graph, str(node.target))
    geometry = Geometry(Call(node), own.weight)
    found = geometry.patches(x) @ geometry.matrix(own.weight).transpose(1, 2)
    if own.bias is not None:
        found = found + own.bias.view(geometry.groups, 1, -1)
    torch.testing.assert_close(found, geometry.rows_of(own(x)), rtol=1e-10, atol=1e-12)
    assert torch.equal(geometry.weight(geometry.matrix(own.weight)), own.weight)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [*product((1, 2), (0, 2), (1, 2), (1, 2))])
def test_convs_and_transposed_ones(rank: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    x = torch.randn(2, 4, *SIZES[:rank], dtype=torch.float64)
    assert_is_product(CONVS[rank - 1](4, 6, 3, stride, padding, dilation, groups), x)
    turned: Any = TRANSPOSED[rank - 1]
    assert_is_product(turned(4, 6, 3, stride, padding, int(stride == 2), groups, dilation=dilation), x)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings(mode: Any) -> None:
    assert_is_product(nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode), torch.randn(2, 4, 7, 6, dtype=torch.float64))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_paddings_by_name(padding: str) -> None:
    layer = nn.Conv2d(4, 6, (3, 5), padding=padding, dilation=(2, 1), bias=False)
    assert_is_product(layer, torch.randn(2, 4, 9, 8, dtype=torch.float64))


def test_an_unbatched_conv() -> None:
    assert_is_product(nn.Conv2d(4, 6, 3), torch.randn(4, 7, 6, dtype=torch.float64))


def test_linear_layers_read_the_last_axis() -> None:
    assert_is_product(nn.Linear(4, 3), torch.randn(2, 5, 4, dtype=torch.float64))
