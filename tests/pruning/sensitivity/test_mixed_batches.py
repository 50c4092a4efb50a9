"""Samples in a random order, in batches of one size."""

from __future__ import annotations

import torch

from fxprune.choosing.samples import Samples
from fxprune.pruning.sensitivity.mixed_batches import batches_of, drawn


def test_samples_are_mixed_and_keep_their_labels() -> None:
    inputs, labels = torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20)
    singles = drawn(Samples([(inputs[:12], labels[:12]), (inputs[12:], labels[12:])]), 16)
    assert len(singles) == 16
    batches = list(batches_of(singles, 6))
    assert [batch.size for batch in batches] == [6, 6, 4]
    assert all(batch.labels is not None for batch in batches)
    found = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]).flatten().long(), found)
    assert sorted(found.tolist()) == list(range(16))
    assert found.tolist() != list(range(16))
    again = drawn(Samples([(inputs, labels)]), 16)
    assert [int(one.inputs[0]) for one in again] == found.tolist()


def test_what_has_another_shape_is_in_another_batch() -> None:
    batches = batches_of(drawn(Samples([torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 5, 5)]), 6), 4)
    assert sum(batch.size for batch in batches) == 6


def test_several_inputs_and_a_table_that_is_no_samples_own() -> None:
    given = ((torch.arange(4.0).view(4, 1), {"mask": torch.arange(4.0).view(4, 1), "table": torch.zeros(7, 2)}), None)
    (batch,) = batches_of(drawn(Samples([given]), 4), 8)
    x, more = batch.inputs
    assert torch.equal(x, more["mask"])
    assert more["table"].shape == (7, 2)
    assert batch.labels is None
