"""What a model computes in train mode only, or keeps frozen there, is kept or warned of."""

from __future__ import annotations

import pytest
import torch
from helpers import Wrapped, targets
from torch import nn
from torch.nn import functional
from tracing_helpers import conv, images

import fxprune
from fxprune.errors import FxpruneWarning


class FrozenNorm(nn.BatchNorm2d):
    """Never uses the statistics of a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        running = self.running_mean, self.running_var
        return functional.batch_norm(x, *running, self.weight, self.bias, training=False, eps=self.eps)


def test_a_norm_that_is_always_frozen_is_no_batch_norm() -> None:
    model = nn.Sequential(conv(), FrozenNorm(4)).train()
    graph = fxprune.trace(model, images())
    assert torch.equal(graph(images()), model(images()))
    assert targets(graph) == ["Conv2d", "batch_norm"]


class KeepsNormsFrozen(nn.Module):
    """Keeps its norm in eval mode, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> KeepsNormsFrozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


def test_a_train_of_the_models_own_is_warned_of() -> None:
    with pytest.warns(FxpruneWarning, match=r"KeepsNormsFrozen\.train\(\) leaves norm in eval mode; train\(\)"):
        fxprune.trace(KeepsNormsFrozen(), images())


def test_a_part_in_train_mode_is_warned_of() -> None:
    model = Wrapped(lambda m, x: functional.dropout(m.layer(x), 0.5, m.training), layer=conv()).eval()
    whole = nn.Sequential(conv(), model).eval()
    model.training = True
    with pytest.warns(FxpruneWarning, match="1 is in train mode inside Sequential, which is in eval mode"):
        fxprune.trace(whole, images())


@pytest.mark.parametrize("fails", [False, True])
def test_a_train_that_is_called_in_another_way_does_not_matter(fails: bool) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def train(self, mode: bool) -> Odd:  # type: ignore[override]
            if fails and mode:
                raise RuntimeError("call setup() first")
            return super().train(mode)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)  # type: ignore[no-any-return]

    assert targets(fxprune.trace(Odd(), images())) == ["Conv2d"]
