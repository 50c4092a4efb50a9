"""BranchScale: its function, its gauge, and that shrinking cannot be undone by the branch's own weights."""

from __future__ import annotations

import pytest
import torch

from fxprune.gates.branch_scale import BranchScale


def test_it_is_a_plain_sum_at_first_and_the_shortcut_once_closed() -> None:
    gamma = torch.rand(4) + 0.5
    scale = BranchScale(gamma)
    x, r = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(scale(x, r, gamma), x + r)
    scale.assign(scale=-0.25)
    torch.testing.assert_close(scale(x, r, gamma), x - 0.25 * r)
    assert scale.effective_scale == 0.25
    scale.close()
    assert scale(x, r, gamma) is x
    assert not scale.gate.requires_grad
    scale.assign(scale=1.0)
    assert scale.gate.requires_grad
    assert not scale.closed


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (4, 3, 3, 3), (4, 8)])
def test_growing_weights_do_not_grow_the_branch(shape: tuple[int, ...]) -> None:
    weight = torch.randn(*shape)
    scale = BranchScale(weight)
    assert scale.coefficient(weight) == pytest.approx(1)
    assert scale.coefficient(3 * weight) == pytest.approx(1 / 3)
    assert scale.effective_scale == 1


def test_no_gradient_along_the_size_of_the_weights() -> None:
    gamma = torch.rand(4).add(0.5).requires_grad_()
    scale = BranchScale(gamma)
    normalized = torch.randn(8, 4, 2, 2)
    out = scale(torch.zeros(8, 4, 2, 2), gamma.reshape(1, 4, 1, 1) * normalized, gamma)
    (out * torch.randn(8, 4, 2, 2)).sum().backward()
    assert gamma.grad is not None
    assert float(gamma.grad @ gamma.detach()) == pytest.approx(0, abs=1e-5)
    assert scale.gate.grad is not None


def test_a_resting_branch_is_a_plain_sum_and_wakes_without_a_change() -> None:
    gamma = torch.rand(4) + 0.5
    scale = BranchScale(gamma)
    scale.rest()
    gamma = 3 * gamma  # what training does
    x, r = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert torch.equal(scale(x, r, gamma), x + r)
    assert scale.coefficient(gamma) == scale.effective_scale == 1
    assert not scale.gate.requires_grad
    with pytest.raises(ValueError, match="wake it"):
        scale.assign(scale=0.5)
    other = BranchScale(gamma)
    other.load_state_dict(scale.state_dict())
    assert other.resting
    scale.wake(gamma)
    torch.testing.assert_close(scale(x, r, gamma), x + r)
    assert scale.gate.requires_grad
    scale.close()
    other.load_state_dict(scale.state_dict())
    assert other.closed
    assert not other.resting
    with pytest.raises(ValueError, match="closed branch"):
        scale.rest()


def test_scales_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        BranchScale().assign(scale=float("nan"))
