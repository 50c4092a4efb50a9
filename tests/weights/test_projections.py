"""The linear layers of attention: what they hold, of what there was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxprune.weights.projections import linear, output_projection, projections, thirds


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 3}, {"kdim": 3, "vdim": 5}])
def test_projections_compute_what_the_layer_projects(widths: dict[str, int], bias: bool) -> None:
    module = nn.MultiheadAttention(4, 2, bias=bias, dropout=0.0, **widths).double().eval()
    layers = [*projections(module), output_projection(module)]
    assert [layer.in_features for layer in layers] == [4, module.kdim, module.vdim, 4]
    assert all(type(layer) is nn.Linear and not layer.training for layer in layers)
    assert all((layer.bias is not None) == bias for layer in layers)
    assert layers[3].weight is module.out_proj.weight
    if widths:
        assert layers[1].weight is module.k_proj_weight
    else:
        assert torch.equal(torch.cat([layer.weight for layer in layers[:3]]), module.in_proj_weight)


def test_thirds_are_parameters_of_their_own() -> None:
    stacked = nn.Parameter(torch.arange(6.0), requires_grad=False)
    parts = thirds(stacked)
    assert [one.tolist() for one in parts] == [[0, 1], [2, 3], [4, 5]]
    assert not any(one.requires_grad or one.untyped_storage().nbytes() > 8 for one in parts)
    assert thirds(None) == [None, None, None]


def test_a_layer_holds_the_very_parameters() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    layer = linear(weight, None, training=True)
    assert layer.weight is weight
    assert (layer.in_features, layer.out_features, layer.training) == (3, 2, True)
    assert layer.bias is None
