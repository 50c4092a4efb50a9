"""Tensors and layers without some of their channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxprune.weights.exact import exact, keep_exact_weights, unrounded
from fxprune.weights.slicing import at_once, narrowed, with_tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_stays_of_a_parameter(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.randn(6, 4, 3, 3, dtype=dtype).to(memory_format=torch.channels_last), False)
    rows, columns = torch.tensor([0, 2, 5]), torch.tensor([1, 3])
    found = narrowed(weight, {0: rows, 1: columns})
    assert torch.equal(found, weight[rows][:, columns])
    assert isinstance(found, nn.Parameter)
    assert not found.requires_grad
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0,), (1,), (0, 1, 2)])
def test_what_is_taken_in_parts_is_the_same(axes: tuple[int, ...]) -> None:
    weight = torch.randn(300, 200, 9)
    assert at_once(weight, 0) < 150
    places = {axis: torch.randperm(weight.shape[axis])[: weight.shape[axis] // 2].sort().values for axis in axes}
    expected = weight
    for axis, index in places.items():
        expected = expected.index_select(axis, index)
    assert torch.equal(narrowed(weight, places), expected)


def test_a_buffer_stays_a_buffer() -> None:
    found = narrowed(torch.arange(5), {0: torch.tensor([0, 4])})
    assert type(found) is torch.Tensor
    assert found.tolist() == [0, 4]


def test_exact_values_are_narrowed_too() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    with keep_exact_weights():
        found = narrowed(weight, {0: torch.tensor([1, 2])})
        with unrounded():
            assert torch.equal(exact(found), weight.detach().double()[[1, 2]])


def test_a_layer_with_other_tensors_leaves_the_first_as_it_is() -> None:
    layer = nn.Linear(4, 3)
    other = with_tensors(layer, {"weight": narrowed(layer.weight, {0: torch.tensor([0, 2])})}, out_features=2)
    assert layer.out_features == 3
    assert other.out_features == 2
    assert layer.weight.shape == (3, 4)
    assert other.bias is layer.bias
    assert isinstance(other, nn.Linear)
