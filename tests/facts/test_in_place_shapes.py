"""Ops that change a shape, or a weight, in place: what is noted of them is true, and no such weight is a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.facts.shapes import META, shape, wrong_shapes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda y: y.transpose_(0, 1), (3, 2)),
        (lambda y: y.t_(), (3, 2)),
        (lambda y: y.unsqueeze_(0), (1, 2, 3)),
        (lambda y: y.swapaxes_(0, 1), (3, 2)),
    ],
)
def test_a_shape_that_is_changed_in_place(change: Callable[[Any], Any], expected: tuple[int, ...]) -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: change(torch.relu(x))).eval(), torch.rand(2, 3))
    assert list(wrong_shapes(graph)) == []
    relu, changed = (node for node in graph.graph.nodes if node.op in ("call_function", "call_method"))
    assert (shape(relu), shape(changed)) == ((2, 3), expected)


class Embedded(nn.Module):
    """Reads a weight through an embedding that shortens its rows, and by itself."""

    def __init__(self, functional_call: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, max_norm=0.1)
        nn.init.constant_(self.table.weight, 3.0)
        self.functional_call = functional_call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.functional_call:
            functional.embedding(x, self.table.weight, max_norm=0.1)
        else:
            self.table(x)
        return self.table.weight * 2


@pytest.mark.parametrize("functional_call", [True, False])
def test_an_embedding_that_shortens_its_rows_writes_to_its_weight(functional_call: bool) -> None:
    model = Embedded(functional_call).eval()
    graph = fxprune.trace(model, torch.tensor([0, 1]))
    assert torch.equal(graph.get_parameter("table.weight"), torch.full((5, 3), 3.0))  # tracing leaves no trace
    assert not passes.FreezeWeights()(graph).modified
    simplified = fxprune.Pipeline([passes.Simplify()])(graph).graph_module
    rows = torch.tensor([2, 3])
    torch.testing.assert_close(simplified(rows), model(rows))


def test_equal_convs_of_other_memory_formats_are_told_apart() -> None:
    first, last = (
        nn.Conv2d(4, 4, 3).to(memory_format=kind) for kind in (torch.contiguous_format, torch.channels_last)
    )
    model = Wrapped(lambda m, x: (m.first(x), m.last(x)), first=first, last=last).eval()
    x = torch.rand(2, 4, 6, 6)
    graph = fxprune.trace(model, x)
    strides = [node.meta[META].stride for node in graph.graph.nodes if node.op == "call_module"]
    assert strides == [one.stride() for one in model(x)]
