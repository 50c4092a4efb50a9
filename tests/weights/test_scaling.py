"""Scaled layers compute the same as a factor behind them, or in front of them, and share what is not scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fxprune.weights.scaling import scaled, scaled_norm

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "conv without bias": (nn.Conv1d(4, 6, 3, bias=False), (2, 4, 5)),
    "linear": (nn.Linear(4, 6), (2, 4)),
}


def output(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("factor", [0.25, -3.0])
def test_a_scaled_layer_scales_its_output_or_its_input(name: str, factor: float) -> None:
    layer, shape = LAYERS[name]
    layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    behind, before = scaled(layer, factor, with_bias=True), scaled(layer, factor, with_bias=False)
    assert isinstance(behind, nn.Module)
    assert isinstance(before, nn.Module)
    torch.testing.assert_close(behind(x), factor * layer(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(before(x), layer(factor * x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d(3), nn.GroupNorm(3, 3), nn.LayerNorm((3, 4, 4))])
def test_a_scaled_norm_scales_its_output(kind: nn.Module) -> None:
    norm = kind.double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter)
    made = scaled(norm, 0.5, with_bias=True)
    assert isinstance(made, nn.Module)
    torch.testing.assert_close(made(x), 0.5 * norm(x), rtol=1e-12, atol=1e-12)


def test_attention_is_scaled_in_its_last_projection_alone() -> None:
    attention = nn.MultiheadAttention(4, 2).double().eval()
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    made = scaled(attention, 0.5, with_bias=True)
    assert isinstance(made, nn.MultiheadAttention)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(output(made(x, x, x)), 0.5 * output(attention(x, x, x)), rtol=1e-12, atol=1e-12)
    assert made.in_proj_weight is attention.in_proj_weight
    assert all(torch.equal(value, before[name]) for name, value in attention.state_dict().items())


@pytest.mark.parametrize("trains", [True, False])
def test_a_scaled_parameter_is_another_one_that_trains_as_it_did(trains: bool) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]), requires_grad=trains)
    made = scaled(parameter, 3.0, with_bias=True)
    assert isinstance(made, nn.Parameter)
    assert made.tolist() == [3.0, -6.0]
    assert made.requires_grad is trains
    assert parameter.tolist() == [1.0, -2.0]


@pytest.mark.parametrize("affine", [True, False])
def test_a_scaled_batch_norm_has_gamma_and_beta(affine: bool) -> None:
    norm = nn.BatchNorm2d(3, affine=affine).double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    made = scaled_norm(norm, -0.5)
    torch.testing.assert_close(made(x), -0.5 * norm(x), rtol=1e-12, atol=1e-12)
    assert {name for name, _ in made.named_parameters()} == {"weight", "bias"}
    assert len(list(norm.parameters())) == 2 * affine
