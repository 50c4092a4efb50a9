"""What runs a network: each backend times one, leaves nothing behind, and says what it cannot do."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from latency_helpers import CONDITIONS, small_graph
from torch import fx, nn

import fxprune
from fxprune.costs.latency.backends import as_before, instrument
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.network_ops import ops_of
from fxprune.errors import FxpruneError
from fxprune.ir.nodes import example_inputs_of


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_a_network_is_timed_and_stays_as_it_is(backend: str) -> None:
    conditions, graph = Conditions(backend), small_graph()
    code = graph.code
    state = {name: value.clone() for name, value in graph.state_dict().items()}
    with as_before(conditions):
        timer = instrument(conditions).whole(graph, example_inputs_of(graph))
        assert timer() > 0
    assert graph.code == code
    assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())


def test_a_compiled_network_is_timed() -> None:
    conditions = Conditions("compile")
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), torch.randn(1, 3, 4, 4))
    with as_before(conditions):
        assert instrument(conditions).whole(graph, example_inputs_of(graph))() > 0


def test_threads_random_numbers_and_gradients_are_as_before() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with contextlib.suppress(ZeroDivisionError), as_before(Conditions(threads=threads + 1)):
        assert torch.get_num_threads() == threads + 1
        assert not torch.is_grad_enabled()
        torch.randn(3)
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, 0, None, "4 ms", True, torch.ones(1)])
def test_a_timer_that_returns_no_time_is_named(wrong: Any) -> None:
    timer = instrument(CONDITIONS, lambda graph, inputs: wrong).whole(small_graph(), ())
    with pytest.raises(FxpruneError, match="measure= must return milliseconds, a finite number above 0; it returned"):
        timer()


def test_a_timer_that_fails_is_named() -> None:
    def lost(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> float:
        raise ConnectionError("no route to phone")

    with pytest.raises(FxpruneError, match="measure= raised ConnectionError: no route to phone"):
        instrument(CONDITIONS, lost).whole(small_graph(), ())()


def test_what_onnx_cannot_express_is_said() -> None:
    class Foreign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.special.bessel_j0(x)
            return found

    graph = fxprune.trace(Foreign(), torch.randn(2, 3))
    with pytest.raises(FxpruneError, match=r"torch cannot export the network to ONNX: .*; take another backend"):
        instrument(Conditions("onnxruntime")).whole(graph, example_inputs_of(graph))


def test_ops_are_timed_alone_in_every_backend() -> None:
    for backend in ("eager", "compile", "onnxruntime"):
        conditions = Conditions(backend)
        for op in ops_of(small_graph(), 1):
            with as_before(conditions):
                assert instrument(conditions).alone(*op.workload.make(op.workload.widths, conditions))() > 0
