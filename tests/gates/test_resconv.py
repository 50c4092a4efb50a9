"""The ResConv module: its two parametrisations, assigning, closing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.gates.resconv import Parametrization


def layer(parametrization: Parametrization = "gain-gate", *, norm: bool = True, **options: float) -> fxprune.ResConv:
    torch.manual_seed(0)
    behind = nn.BatchNorm2d(4) if norm else None
    if behind is not None:
        nn.init.uniform_(behind.weight, 0.5, 1.5)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return fxprune.ResConv(conv, behind, parametrization=parametrization, **options).eval()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("parametrization", ["gain-gate", "free"])
def test_it_starts_as_conv_and_norm_alone(parametrization: Parametrization, norm: bool) -> None:
    made = layer(parametrization, norm=norm)
    x = torch.randn(2, 4, 5, 5)
    expected = made.conv(x) if made.norm is None else made.norm(made.conv(x))
    assert torch.equal(made(x), expected)
    assert made.scale.item() == 1
    assert made.shortcut.item() == 0
    assert made.effective_scale == 1


@pytest.mark.parametrize("parametrization", ["gain-gate", "free"])
@pytest.mark.parametrize(
    "pair", [(0.5, 1.5), (-0.5, 1.5), (0.5, -1.5), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (-2.0, -3.0)]
)
def test_assign_sets_both(parametrization: Parametrization, pair: tuple[float, float]) -> None:
    made = layer(parametrization, input_rms=0.7)
    made.assign(scale=pair[0], shortcut=pair[1])
    assert made.coefficients() == pytest.approx(pair, rel=1e-6)
    assert (made.scale.item(), made.shortcut.item()) == pytest.approx(pair, rel=1e-6)
    assert (pair[0] == 0) == (made.effective_scale == 0)
    x = torch.randn(2, 4, 5, 5)
    assert made.norm is not None
    torch.testing.assert_close(made(x), pair[0] * made.norm(made.conv(x)) + pair[1] * x)


def test_assign_leaves_what_is_not_given() -> None:
    made = layer()
    made.assign(scale=0.5, shortcut=0.25)
    made.assign(shortcut=2.0)
    assert made.coefficients() == pytest.approx((0.5, 2.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_assign_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        layer().assign(scale=value)


def test_the_norm_cannot_absorb_the_scale() -> None:
    made = layer()
    assert made.norm is not None
    x = torch.randn(2, 4, 5, 5)
    before = made.effective_scale
    with torch.no_grad():
        made.norm.weight.mul_(3)  # type: ignore[operator]
        made.norm.bias.mul_(3)  # type: ignore[operator]
    assert made.effective_scale == pytest.approx(before)
    assert made.scale.item() == pytest.approx(made.gate.item() / 3 * float(made.gain / made.initial_gauge), rel=1e-5)
    assert made(x).shape == x.shape


def test_gate_zero_is_the_shortcut_alone() -> None:
    made = layer(input_rms=0.5)
    with torch.no_grad():
        made.gate.zero_()
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(made(x), float(made.gain) / 0.5 * x)
    assert made.closed_shortcut == pytest.approx(float(made.gain) / 0.5)


@pytest.mark.parametrize("parametrization", ["gain-gate", "free"])
def test_a_closed_layer_computes_no_conv_and_trains_no_gate(parametrization: Parametrization) -> None:
    made = layer(parametrization)
    made.assign(shortcut=1.0)
    made.close()
    made.conv.forward = None  # type: ignore[method-assign,assignment]  # would fail if it were called
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(made(x), made.shortcut.item() * x)
    assert made.effective_scale == 0


def test_a_zero_initialised_norm_has_finite_scales() -> None:
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    made = fxprune.ResConv(nn.Conv2d(4, 4, 3, padding=1), norm)
    assert made.coefficients() == (1.0, 0.0)


def test_gradients_reach_the_gate() -> None:
    made = layer().train()
    made(torch.randn(2, 4, 5, 5)).square().mean().backward()
    assert made.gate.grad is not None
    assert float(made.gate.grad.abs()) > 0


def test_senseless_options_are_refused() -> None:
    with pytest.raises(fxprune.FxpruneError, match="parametrization"):
        layer("gate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input_rms"):
        layer(input_rms=0.0)


def test_its_text_shows_scale_and_shortcut() -> None:
    assert "scale=1, shortcut=0, gain-gate" in repr(layer())


def test_a_resting_layer_is_conv_and_norm_and_wakes_without_a_change() -> None:
    made = layer(input_rms=2.0)
    made.rest()
    with torch.no_grad():
        made.norm.weight.mul_(3)  # type: ignore[operator, union-attr]  # what training does
    x = torch.randn(2, 4, 5, 5)
    plain = made.norm(made.conv(x))  # type: ignore[misc]
    assert torch.equal(made(x), plain)
    assert made.coefficients() == (1.0, 0.0)
    assert made.effective_scale == 1
    assert not made.gate.requires_grad
    made.wake()
    torch.testing.assert_close(made(x), plain)
    assert made.effective_scale == 1
    assert made.gate.requires_grad
    with torch.no_grad():
        made.gate.fill_(0.25)
    assert made.effective_scale == pytest.approx(0.25)
    torch.testing.assert_close(made(x), 0.25 * plain + made.shortcut * x)


def test_a_resting_layer_can_be_assigned_and_closed() -> None:
    made = layer()
    made.rest()
    made.assign(scale=0.5, shortcut=0.25)
    assert made.coefficients() == pytest.approx((0.5, 0.25))
    other = layer(input_rms=2.0)
    other.rest()
    shortcut = other.closed_shortcut
    other.close()
    assert other.coefficients() == pytest.approx((0, shortcut))
    with pytest.raises(ValueError, match="open ResConv"):
        other.rest()


def test_the_state_dict_knows_what_is_closed_and_what_rests() -> None:
    for change in (fxprune.ResConv.close, fxprune.ResConv.rest):
        made, other = layer(), layer()
        change(made)
        other.load_state_dict(made.state_dict())
        assert (other.closed, other.resting) == (made.closed, made.resting)
        assert not other.gate.requires_grad
        x = torch.randn(2, 4, 5, 5)
        assert torch.equal(other(x), made(x))


def test_loading_a_state_dict_leaves_frozen_gates_frozen() -> None:
    made = layer()
    made.gate.requires_grad_(False)
    made.load_state_dict(layer().state_dict())
    assert not made.gate.requires_grad
