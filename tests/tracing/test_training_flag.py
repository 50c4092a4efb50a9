"""The train flag: what reads it follows the graph's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

import fxprune
from fxprune.tracing import attempt


class Residual(nn.Module):
    """A branch that is dropped now and then while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = StochasticDepth(1.0, "batch")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.drop(self.conv(x))
        return result


def test_stochastic_depth_follows_the_flag_without_a_second_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "follow_training_flag", None)  # would be called for a second trace
    x = torch.randn(2, 3, 8, 8)
    graph = fxprune.trace(Residual(), x)
    assert torch.equal(graph.train()(x), x)
    assert not torch.equal(graph.eval()(x), x)


def test_stochastic_depth_in_eval_mode_inside_a_model_in_train_mode_stays_so() -> None:
    model = Residual().train()
    model.drop.eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(fxprune.trace(model, x)(x), model(x))
