"""Several graphs side by side."""

from __future__ import annotations

import pytest
import torch
from latency_helpers import small_graph
from torch import nn

import fxprune
from fxprune.costs.latency.measured_latency import compare_latency
from fxprune.errors import FxpruneError


def test_each_graph_has_a_time() -> None:
    graph = small_graph()
    found = compare_latency({"a": graph, "b": graph}, 2, repeats=1)
    assert list(found) == ["a", "b"]
    assert min(found.values()) > 0


def test_networks_of_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    graph = fxprune.trace(Two(), (torch.ones(1), torch.ones(1)))
    with pytest.raises(FxpruneError, match="one tensor input"):
        compare_latency({"a": graph}, 1)
