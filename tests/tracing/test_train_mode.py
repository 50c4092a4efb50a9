"""What a model computes in train mode only, or keeps frozen there, is kept or warned of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Wrapped, targets
from torch import nn
from torch.nn import functional
from tracing_helpers import conv, images, opaque

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


class Step(nn.Module):
    """Counts its training steps."""

    step: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.step += 1
        return self.conv(x) * (self.step + 1)  # type: ignore[no-any-return]


def constant(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.layer(x) * (torch.tensor(0.5) if m.training else torch.tensor(1.0))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Wrapped(constant, layer=conv()), "a tensor that forward makes is another one"),
        (Step(), "its train-mode graph has other nodes"),
    ],
)
def test_other_values_in_train_mode_are_warned_of(model: nn.Module, why: str) -> None:
    with pytest.warns(FxpruneWarning, match=f"something else in train mode .*{why}"):
        fxprune.trace(model.train(), images())


def test_a_part_in_train_mode_is_warned_of() -> None:
    model = Wrapped(lambda m, x: functional.dropout(m.layer(x), 0.5, m.training), layer=conv()).eval()
    whole = nn.Sequential(conv(), model).eval()
    model.training = True
    with pytest.warns(FxpruneWarning, match="1 is in train mode inside Sequential, which is in eval mode"):
        fxprune.trace(whole, images())


@pytest.mark.parametrize("check", [True, False])
def test_a_buffer_that_training_assigns_is_not_in_the_eval_graph(check: bool) -> None:
    class Steps(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.steps = self.steps + 1
            return self.conv(x) * self.steps  # type: ignore[no-any-return]

    with pytest.warns(FxpruneWarning, match="else in train mode .it assigns its buffer steps anew"):
        graph = fxprune.trace(Steps().eval(), images(), check=check)
    assert opaque(graph) == []
    assert not graph(images()).any()


@pytest.mark.parametrize("other", [torch.ones((), device="meta"), torch.ones((), dtype=torch.float64)])
def test_constants_of_another_kind_in_train_mode_are_warned_of(other: torch.Tensor) -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.layer(x) * (other if m.training else torch.ones(()))  # type: ignore[no-any-return]

    with pytest.warns(FxpruneWarning, match="a tensor that forward makes is another one"):
        fxprune.trace(Wrapped(function, layer=conv()).eval(), images())


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
