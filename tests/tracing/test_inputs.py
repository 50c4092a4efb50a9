"""Inputs and outputs of every kind."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from helpers import example
from torch import nn

import fxprune
from fxprune.errors import TraceError
from fxprune.ir.pytrees import tensors_in
from fxprune.ops.call import is_conv


class Net(nn.Module):
    """A conv, called by a function of all arguments."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.function = function


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


X, Y = example(2, 3, 5, 5).float(), example(2, 3, 5, 5, seed=1).float()


class Listed(Net):
    def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.conv(image) for image in images]


class Mapped(Net):
    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"sum": self.conv(batch["image"]) + sum(batch["others"])}


class Keywords(Net):
    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y: torch.Tensor = self.conv(x) * scale
        return y if mask is None else y * mask


class Starred(Net):
    def forward(self, *xs: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        return self.conv(sum(xs)) + more["offset"]  # type: ignore[no-any-return]


class Collides(Net):
    def forward(self, x_1: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        return self.conv(x_1) if x is None else self.conv(x)  # type: ignore[no-any-return]


class Structured(Net):
    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.conv(x))


def test_a_list_is_one_input() -> None:
    model = Listed(None)
    graph = fxprune.trace(model, [X, Y])
    torch.testing.assert_close(graph([Y, X]), model([Y, X]))
    with pytest.raises(AssertionError, match="images has 2 entries"):
        graph([X])


def test_a_nest_is_one_input() -> None:
    model = Mapped(None)
    graph = fxprune.trace(model, {"image": X, "others": (X, Y)})
    given = {"image": Y, "others": (Y, X)}
    torch.testing.assert_close(graph(given), model(given))
    assert sum(is_conv(node) for node in graph.graph.nodes) == 1


def test_keyword_inputs() -> None:
    model = Keywords(None)
    graph = fxprune.trace(model, X, {"scale": Y})
    torch.testing.assert_close(graph(Y, scale=X), model(Y, scale=X))
    both = fxprune.trace(model, X, {"scale": Y, "mask": X})
    torch.testing.assert_close(both(Y, scale=X, mask=Y), model(Y, scale=X, mask=Y))
    with pytest.raises(TraceError, match="missing a required"):
        fxprune.trace(model, X)


def test_none_as_an_input() -> None:
    graph = fxprune.trace(Keywords(None), X, {"scale": Y, "mask": None})
    torch.testing.assert_close(graph(Y, scale=X, mask=None), graph(Y, X, None))
    with pytest.raises(AssertionError, match="mask is None"):
        graph(Y, scale=X, mask=X)


def test_starred_arguments() -> None:
    model = Starred(None)
    graph = fxprune.trace(model, (X, Y), {"offset": X})
    torch.testing.assert_close(graph(Y, Y, offset=Y), model(Y, Y, offset=Y))


def test_names_that_look_like_each_other() -> None:
    model = Collides(None)
    torch.testing.assert_close(fxprune.trace(model, X)(Y), model(Y))
    torch.testing.assert_close(fxprune.trace(model, (X, Y))(X, X), model(X, X))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: {"a": y, "b": (y + 1, [y * 2])},
        lambda y: OrderedDict(a=y),
        lambda y: Pair(y, y + 1),
        lambda y: Output(y, y + 1),
        lambda y: Output(y),
    ],
)
def test_outputs_of_every_kind(function: Any) -> None:
    model = Structured(function)
    found, expected = fxprune.trace(model, X)(Y), model(Y)
    assert isinstance(found, dict) if isinstance(expected, dict) else type(found) is type(expected)
    for kept, wanted in zip(tensors_in(found), tensors_in(expected), strict=True):
        torch.testing.assert_close(kept, wanted)
