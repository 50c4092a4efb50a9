"""What users give as data, as batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from criterion_nets import small
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.choosing.samples import Batch, Samples
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError
from fxprune.ir.nodes import EXAMPLE_INPUTS


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


IMAGES, LABELS = torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("given", "inputs", "labelled"),
    [
        (IMAGES, 1, False),
        ((IMAGES,), 1, False),
        ((IMAGES, LABELS), 1, True),
        ([IMAGES, LABELS], 1, True),
        (((IMAGES, IMAGES), LABELS), 2, True),
        (((IMAGES, IMAGES), None), 2, False),
        ([[IMAGES, IMAGES], LABELS], 2, True),
        (Batch((IMAGES, IMAGES), LABELS), 2, True),
    ],
)
def test_batches(given: Any, inputs: int, labelled: bool) -> None:
    graph = fxprune.trace(Two() if inputs == 2 else small()[0].float(), (IMAGES,) * inputs)
    samples = Samples.of(graph, [None, given])
    (batch,) = samples
    assert len(batch.inputs) == len(samples.inputs) == inputs
    assert all(torch.equal(one, IMAGES) for one in batch.inputs)
    assert (batch.labels is not None) == labelled == samples.is_labelled
    assert batch.size == 4
    assert samples.advice == ""
    alone = list(samples.alone())
    assert [one.inputs[0].shape for one in alone] == [(1, 2, 6, 6)] * 4
    if labelled:
        assert [int(one.labels) for one in alone if one.labels is not None] == LABELS.tolist()


def test_a_loader_is_read_anew_and_what_can_be_read_once_is_kept() -> None:
    _, graph, _, _ = small()
    loader: Any = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3)
    samples = Samples.of(graph, loader)
    assert [batch.size for batch in samples] == [batch.size for batch in samples] == [3, 1]

    def once() -> Iterator[torch.Tensor]:
        yield IMAGES

    samples = Samples.of(graph, once())
    assert len(list(samples)) == len(list(samples)) == 1


def test_without_data_the_example_inputs_are_taken_and_that_is_said() -> None:
    _, graph, images, _ = small()
    samples = Samples.of(graph)
    assert torch.equal(samples.inputs[0], images)
    assert samples.advice == "the graph's 6 example inputs; give data= (fxprune run --data)"
    assert not samples.is_labelled
    del graph.meta[EXAMPLE_INPUTS]
    assert Samples.of(graph).is_empty
    with pytest.raises(FxpruneError, match="there are no inputs to compare on: give data="):
        _ = Samples.of(graph).inputs


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (IMAGES, FxpruneTypeError, r"and this is one: write data=\[\(inputs, labels\)\]"),
        ((IMAGES, LABELS), FxpruneTypeError, r"and this is one: write data=\[\(inputs, labels\)\]"),
        (3, FxpruneTypeError, "data is an iterable of inputs, or of pairs of inputs and labels; got a int"),
        (["cat.jpg"], FxpruneTypeError, "all tensors; batch 0 is a str"),
        ([(IMAGES, "cat")], FxpruneTypeError, "all tensors; batch 0 is a tuple of Tensor, str"),
        ([(IMAGES, LABELS), ()], FxpruneTypeError, "all tensors; batch 1 is a tuple of nothing"),
        ([((IMAGES, IMAGES), LABELS)], FxpruneValueError, "batch 0 of data has 2 of the 1 inputs of the graph"),
        ([(IMAGES, LABELS[:3])], FxpruneValueError, r"batch 0 of data has 4 inputs and labels of shape \(3,\)"),
    ],
)
def test_what_is_no_data(data: Any, error: type[Exception], message: str) -> None:
    _, graph, _, _ = small()
    with pytest.raises(error, match=message):
        list(Samples.of(graph, data))
