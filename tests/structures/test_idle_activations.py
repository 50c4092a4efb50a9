"""Which activations go with a layer: those that a value passes a second time then."""

from __future__ import annotations

import torch
from torch import fx, nn

import fxprune
from fxprune.facts.ranges import bounds_of_values
from fxprune.structures.idle_activations import idle_without


class Block(nn.Module):
    """A residual block behind a ReLU, or not."""

    def __init__(self, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x) if self.rectified else x
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(x + y)


def nodes(rectified: bool) -> tuple[list[fx.Node], dict[fx.Node, tuple[float, float]]]:
    graph = fxprune.trace(Block(rectified), torch.randn(2, 3, 4, 4))
    return list(graph.graph.nodes), bounds_of_values(graph)


def test_what_was_rectified_before_is_not_again() -> None:
    (_, before, first, inner, second, total, last, _), bounds = nodes(rectified=True)
    assert idle_without(first, before, bounds) == {inner}
    assert idle_without(second, inner, bounds) == {last}  # a sum of two that are not negative
    assert idle_without(total, before, bounds) == {last}


def test_other_values_still_are() -> None:
    (x, first, inner, second, total, _, _), bounds = nodes(rectified=False)
    assert idle_without(first, x, bounds) == set()
    assert idle_without(second, inner, bounds) == set()
    assert idle_without(total, x, bounds) == set()
