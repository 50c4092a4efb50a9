"""The memory that a forward pass holds: against what the allocator was asked for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Wrapped
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import fxprune
from fxprune.costs.activation_memory import activation_bytes, peak_activation_bytes


def measured(model: nn.Module, x: torch.Tensor) -> int:
    """Return the most bytes that the allocator holds at a time in a forward pass."""
    with torch.no_grad():
        model(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model(x)
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def sequence(self: Any, x: torch.Tensor) -> torch.Tensor:
    return functional.relu(self.a(functional.relu(self.a(x))))


def residual(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = functional.relu(self.a(x))
    return functional.relu(self.b(functional.relu(self.a(x))) + x)


def views(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.a(x).view(-1, 2, 32)
    return torch.cat([y.transpose(1, 2), y.transpose(1, 2)], 1)


def several(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = self.a(x)
    left, right = torch.split(y, 32, 1)
    return left.exp(), right, y


@pytest.mark.parametrize("forward", [sequence, residual, views, several])
def test_the_emitted_model_holds_what_the_graph_says(forward: Any, tmp_path: Path) -> None:
    x = torch.randn(8, 64)
    graph = fxprune.trace(Wrapped(forward, a=nn.Linear(64, 64), b=nn.Linear(64, 64)).eval(), x)
    fxprune.emit(graph, tmp_path)
    model = runpy.run_path(str(tmp_path / "model.py"))["load"](tmp_path)
    held = activation_bytes(graph)
    assert list(held) == list(graph.graph.nodes)
    assert max(held.values()) == measured(model, x)
    assert peak_activation_bytes(graph) * 8 == max(held.values())


def test_inputs_and_weights_do_not_count() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1)[:4] + self.offset  # type: ignore[no-any-return]

    model = Wrapped(forward)
    model.register_buffer("offset", torch.zeros(4))
    graph = fxprune.trace(model.eval(), torch.randn(1000))
    assert max(activation_bytes(graph).values()) == 4 * 4
