"""Models whose train() and eval() write to weights: the user's never change, and what a graph does not do is told."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, state_of
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.errors import FxpruneWarning, TraceError
from fxprune.ir.trace_notes import opaque_modules


class Lora(nn.Module):
    """Merges a product into its kernel for eval mode; ``forward`` goes by its own mark, or by the train flag."""

    def __init__(self, by_flag: bool) -> None:
        super().__init__()
        self.conv, self.by_flag, self.merged = nn.Conv2d(4, 4, 1), by_flag, False
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))

    def delta(self) -> torch.Tensor:
        return (self.a @ self.b)[:, :, None, None]

    def train(self, mode: bool = True) -> Lora:
        super().train(mode)
        if mode == self.merged:
            self.conv.weight.data += (-1 if mode else 1) * self.delta().data
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_merged = not self.training if self.by_flag else self.merged
        out: torch.Tensor = self.conv(x) if is_merged else self.conv(x) + functional.conv2d(x, self.delta())
        return out


class Switching(nn.Module):
    """Makes one conv of two branches in ``eval()``, as a new module, for good."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, bias=False)

    def eval(self) -> Switching:
        super().eval()
        if "second" in self._modules:
            self.first.weight = nn.Parameter(self.first.weight.detach() + self.second.weight.detach())
            del self.second
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.first(x) + self.second(x) if "second" in self._modules else self.first(x)
        return out


MERGING: list[Callable[[], nn.Module]] = [lambda: Lora(False), lambda: Lora(True), Switching]


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", MERGING)
@pytest.mark.parametrize("check", [True, False])
def test_an_eval_that_changes_weights_shares_none(make: Callable[[], nn.Module], check: bool) -> None:
    model = make()
    state = state_of(model)
    with pytest.raises(TraceError, match=r"\w\.eval\(\) changes weights \((conv|first)\..*without share_weights"):
        fxprune.trace(model, images(), check=check, share_weights=True)
    assert_state_equal(model, state)
    assert all(module.training for module in model.modules())


@pytest.mark.filterwarnings("ignore:.* computes something else in train mode")
@pytest.mark.parametrize("make", MERGING)
def test_a_graph_of_merged_weights_says_that_it_is(make: Callable[[], nn.Module]) -> None:
    model = make()
    state = state_of(model)
    with pytest.warns(FxpruneWarning, match=r"train\(\) and eval\(\) of \w+ change weights \((conv|first)\.") as told:
        graph = fxprune.trace(model, images())
    assert [one.filename for one in told if "change weights" in str(one.message)] == [__file__]
    assert_state_equal(model, state)
    assert not opaque_modules(graph)
    with torch.no_grad():
        torch.testing.assert_close(graph.eval()(images(1)), model.eval()(images(1)))


def test_a_model_that_is_merged_already_shares_its_weights_and_says_what_train_would_do() -> None:
    model = Lora(False).eval()
    state = state_of(model)
    with pytest.warns(FxpruneWarning, match=r"change weights \(conv\.weight\)"):
        graph = fxprune.trace(model, images(), share_weights=True)
    assert graph.get_parameter("conv.weight") is model.conv.weight
    assert_state_equal(model, state)


class Frozen(nn.Sequential):
    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


def test_modes_that_write_to_nothing_share_and_say_nothing_of_weights() -> None:
    model = Frozen(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    with pytest.warns(FxpruneWarning, match=r"leaves 1 in eval mode") as told:
        graph = fxprune.trace(model, images(), share_weights=True)
    assert len(told) == 1
    assert graph.get_parameter("0.weight") is model[0].weight


class Limited(nn.Module):
    """Limits the norm of its kernel in every call, in one of the ways that people write it."""

    def __init__(self, write: Callable[[torch.Tensor, torch.Tensor], Any], fails: bool) -> None:
        super().__init__()
        self.conv, self.write, self.fails = nn.Conv2d(4, 4, 1), write, fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() < 1e9:  # which no tracer sees
            self.write(self.conv.weight, torch.renorm(self.conv.weight.detach(), 2, 0, 0.1))
        if self.fails:
            raise ValueError("it fails")
        return self.conv(x)  # type: ignore[no-any-return]


def _set_data(weight: torch.Tensor, value: torch.Tensor) -> None:
    weight.data = value


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("write", [_set_data, lambda w, value: w.data.copy_(value)])
def test_a_forward_that_writes_to_its_weights_changes_none_of_the_users(
    write: Callable[[torch.Tensor, torch.Tensor], Any], fails: bool
) -> None:
    model = Limited(write, fails)
    state, memory = state_of(model), model.conv.weight.data_ptr()
    with warnings.catch_warnings(), pytest.raises(TraceError) if fails else contextlib.nullcontext():
        warnings.simplefilter("ignore", FxpruneWarning)
        fxprune.trace(model, images(), share_weights=True)
    assert_state_equal(model, state)
    assert model.conv.weight.data_ptr() == memory
