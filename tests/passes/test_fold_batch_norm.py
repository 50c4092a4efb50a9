"""FoldBatchNorm: conv and linear layers; what it must leave alone is in test_mistakes.py."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_rewrites, example, targets, tiny, traced
from torch import nn

from fxprune import passes
from fxprune.weights.folding import scaled_rows


def test_every_norm_of_a_residual_network() -> None:
    result = assert_rewrites(tiny(), passes.FoldBatchNorm(), count=5)
    assert "BatchNorm2d" not in targets(result.graph_module)


def test_a_linear_layer() -> None:
    graph = traced(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6)), example(5, 4))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=1)


def test_a_linear_layer_over_a_sequence_normalises_another_axis() -> None:
    graph = traced(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(3)), example(5, 3, 4))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), [(5, 4), (5, 6, 4)]),
        (nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)), [(2, 4, 6), (4, 6)]),
        (nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6)), [(2, 6, 6), (6, 6)]),
    ],
)
def test_a_norm_that_takes_other_ranks_stays_itself(model: nn.Module, taken: list[tuple[int, ...]]) -> None:
    graph = traced(model, example(*taken[0]))
    assert_rewrites(graph, passes.FoldBatchNorm(), count=0)
    assert_rewrites(graph, passes.InsertResConv(), count=0)


def test_strides_and_groups_do_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8))
    assert_rewrites(traced(model, example(2, 4, 9, 9)), passes.FoldBatchNorm(), count=1)


def test_a_norm_without_a_layer_in_front_says_so() -> None:
    graph = traced(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), example(2, 4, 6, 6))
    result = assert_rewrites(graph, passes.FoldBatchNorm(), count=0)
    assert "no conv or linear layer" in result.declined[0].why


def test_unused_norms_leave_the_state_dict() -> None:
    result = passes.FoldBatchNorm()(tiny())
    assert not any("bn" in key for key in result.graph_module.state_dict())
    assert isinstance(result.graph_module.get_submodule("stem.0").bias, torch.Tensor)


def test_weights_scaled_in_their_own_dtype() -> None:
    weight, factor = torch.randn(16, 8, 3, 3), torch.rand(16, dtype=torch.float64) + 0.5
    for dtype, bound in (
        (torch.float64, 1e-15),
        (torch.float32, 2e-7),
        (torch.bfloat16, 5e-3),
        (torch.float16, 6e-4),
    ):
        given = nn.Parameter(weight.to(dtype))
        expected = given.detach().double() * factor.reshape(-1, 1, 1, 1)
        made = scaled_rows(given, factor)
        assert made.dtype == dtype
        assert float(((made.detach().double() - expected) / expected).abs().max()) < bound
