"""Comparing outputs: what counts as a difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, tiny, traced
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import inherit
from fxprune.rewriting.verify import difference
from fxprune.structures.gated_layers import layers
from fxprune.weights.exact import in_float64

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("a", "b", "absolute", "relative"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, 0),
        ([1.0, 4.0], [1.5, 4.0], 0.5, 0.125),
        ([0.0], [0.0], 0, 0),
        ([NAN, 1.0], [NAN, 1.0], 0, 0),
        ([INF, -INF], [INF, -INF], 0, 0),
        ([NAN, 1.0], [1.0, 1.0], INF, INF),
        ([1.0], [NAN], INF, INF),
        ([INF], [-INF], INF, INF),
        ([INF, 1.0], [1.0, 1.0], INF, INF),
        ([1.0], [1.0, 2.0], INF, INF),
    ],
)
def test_difference(a: list[float], b: list[float], absolute: float, relative: float) -> None:
    for first, second in ((a, b), (b, a)):
        assert difference([torch.tensor(first)], [torch.tensor(second)]) == (absolute, relative)


def test_the_imaginary_part_counts() -> None:
    a, b = torch.tensor([3 + 4j]), torch.tensor([3 + 2j])
    assert difference([a], [b]) == (2.0, 0.5)
    assert difference([a], [a.clone()]) == (0, 0)


def test_complex_parameters_keep_their_imaginary_part() -> None:
    model = nn.Linear(2, 2, dtype=torch.complex64)
    assert torch.equal(in_float64(model).weight, model.weight)


def test_numbers_beside_tensors_are_compared() -> None:
    def graph(times: int) -> fx.GraphModule:
        return fxprune.trace(Wrapped(lambda m, x: (x, {"n": x.shape[0] * times})), example(2, 3))

    assert not fxprune.verify(graph(1), graph(5), example(2, 3)).equal
    assert fxprune.verify(graph(5), graph(5), example(2, 3)).equal


@pytest.mark.parametrize("draw", [lambda x: functional.dropout(x, 0.5, True), lambda x: x + torch.randn(())])
def test_removing_what_draws_random_numbers_is_no_difference(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return draw(x + m.a(draw(x)))

    sparse = passes.InsertBranchScale()(traced(Wrapped(function, a=nn.Conv2d(4, 4, 1)), example(2, 4, 6, 6)))
    layer = layers(sparse.graph_module)[0]
    layer.module.close()
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0)])(sparse.graph_module)
    assert len(result.rewritten) == 1
    assert result.max_relative == 0


def test_numbers_of_outputs_count() -> None:
    assert difference([torch.ones(1)], []) == (INF, INF)


def test_a_graph_that_became_nan_is_different() -> None:
    graph = tiny()
    other = passes.FoldBatchNorm()(graph).graph_module
    with torch.no_grad():
        other.get_parameter("stem.0.bias").fill_(NAN)
    found = fxprune.verify(graph, other, example(2, 3, 8, 8))
    assert not found.equal
    assert found.first_difference is not None


def test_verifying_changes_neither_graph_nor_the_random_state() -> None:
    graph = tiny().train()
    before = torch.get_rng_state()
    running = graph.get_buffer("stem.1.running_mean").clone()
    fxprune.verify(graph, graph, example(2, 3, 8, 8))
    assert graph.training
    assert torch.equal(graph.get_buffer("stem.1.running_mean"), running)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_difference_in_large_values_is_found() -> None:
    class Big(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            big = torch.relu(x).repeat(1, 1, 400, 400)
            return torch.tanh(big).mean((2, 3))

    a = fxprune.trace(Big(), torch.rand(1, 2, 2, 2))
    b = copy_graph_module(a)
    tanh = next(node for node in b.graph.nodes if node.target is torch.tanh)
    with b.graph.inserting_after(tanh):
        changed = b.graph.call_function(torch.mul, (tanh, 1.0001))
    inherit(changed, tanh, made_by="test")
    tanh.replace_all_uses_with(changed)
    changed.args = (tanh, 1.0001)
    b.recompile()
    found = fxprune.verify(a, b, torch.rand(1, 2, 2, 2))
    assert not found.equal
    assert str(found.first_difference).startswith("mul")


def test_what_cannot_be_run_in_float64_is_said_in_one_line() -> None:
    model = Wrapped(lambda m, x: x + m.conv(x).view(torch.int32).view(torch.float32), conv=nn.Conv2d(3, 3, 1))
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 4, 4))
    with pytest.raises(fxprune.FxpruneError, match="cannot be run in float64, in which passes are verified"):
        fxprune.Pipeline([passes.InsertResConv()])(graph)
    fxprune.Pipeline([passes.InsertResConv()], verify=False)(graph)
