"""Functions that torch.fx does not look into and that write into their arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torchvision.models.video import mvit

import fxprune
from fxprune import passes
from fxprune.choosing.inspection import inspect_graph
from fxprune.ir.trace_notes import opaque_modules, tier_of


def add_into(x: torch.Tensor, y: torch.Tensor) -> None:
    x.add_(y)


def add_into_and_return(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.add_(y)


def add_into_and_measure(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.add_(y).mean()


def add_into_both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x.add_(1)
    y.add_(x)
    return x.mean()


def count(x: torch.Tensor, y: torch.Tensor) -> float:
    return x.shape[0] * 2.0


for name in ("add_into", "add_into_and_return", "add_into_and_measure", "add_into_both", "count"):
    fx.wrap(name)


class Calls(nn.Module):
    """Calls a function between two convs, and uses what it changed and, if asked for, what it returned."""

    def __init__(self, call: Callable[[torch.Tensor, torch.Tensor], Any], use_result: bool) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.call, self.use_result = call, use_result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        z = self.call(y, x)
        last: torch.Tensor = self.last(y * 2)
        return last + y.flatten(1).mean() + (z if self.use_result else 0)


def model_of(call: Callable[[torch.Tensor, torch.Tensor], Any], use_result: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), Calls(call, use_result)).eval(), torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "use_result"),
    [
        (lambda x, y: add_into(x, y), False),
        (lambda x, y: add_into_and_return(x, y), False),
        (lambda x, y: add_into_and_return(x, y), True),
        (lambda x, y: count(x, y), True),
    ],
)
def test_what_is_overwritten_is_a_new_value(call: Callable[..., Any], use_result: bool) -> None:
    model, x = model_of(call, use_result)
    expected = model(x)
    graph = fxprune.trace(model, x)
    assert tier_of(graph) == "symbolic"
    assert sum(site.eligible for _, site in inspect_graph(graph).convs) == 2
    simplified = fxprune.Pipeline([passes.EliminateDeadCode(), passes.Simplify()])(graph).graph_module
    assert torch.equal(simplified(x), expected)
    assert torch.equal(simplified(x), expected)  # the first call left no traces


@pytest.mark.parametrize("call", [lambda x, y: add_into_and_measure(x, y), lambda x, y: add_into_both(x, y)])
def test_what_is_not_that_simple_stays_one_call(call: Callable[..., Any]) -> None:
    model, x = model_of(call, use_result=True)
    expected = model(x)
    graph = fxprune.trace(model, x)
    assert opaque_modules(graph)
    simplified = fxprune.Pipeline([passes.Simplify()])(graph).graph_module
    assert torch.equal(simplified(x), expected)


def test_it_is_emitted_and_read_back(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            mvit._add_shortcut(y, x, False)
            return y * 2

    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(2, 3, 8, 8)
    graph = fxprune.trace(model, x)
    fxprune.emit(graph, tmp_path / "out")
    assert "def _written(" in (tmp_path / "out" / "model.py").read_text()
    assert torch.equal(fxprune.load_emitted(tmp_path / "out")(x), model(x))


def test_what_is_only_read_may_be_read_later() -> None:
    class ReadsBoth(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, shift = self.conv(x), self.last(x)
            z = add_into_and_return(y, shift)
            last: torch.Tensor = torch.relu(add_into_and_return(z * 2, shift)) + shift
            return last

    graph = fxprune.trace(ReadsBoth(add_into_and_return, True).eval(), torch.randn(2, 4, 5, 5))
    assert (tier_of(graph), opaque_modules(graph)) == ("symbolic", [])


def test_attention_that_adds_positions_and_queries_in_place_is_looked_into() -> None:
    ones, threes = [1, 1, 1], [3, 3, 3]
    attention = mvit.MultiscaleAttention([2, 4, 4], 8, 8, 2, threes, threes, ones, ones, True, False, True)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.attention(x, (2, 4, 4))[0]
            return y

    graph = fxprune.trace(Whole().eval(), torch.randn(1, 33, 8))
    assert not opaque_modules(graph)
