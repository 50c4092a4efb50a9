"""How far outputs move, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fxprune.pruning.sensitivity.output_change import Change, Reference, is_logits


def test_logits_with_labels() -> None:
    before, after = (
        torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]),
        torch.tensor([[0.0, 2.0], [0.0, 1.0], [1.0, 0.0]]),
    )
    labels = torch.tensor([0, 1, 1])
    change = Change()
    change.add(Reference(before[:2], labels[:2]), after[:2], 2)
    change.add(Reference(before[2:], labels[2:]), after[2:], 1)
    each = (before.softmax(1) - after.softmax(1)).abs().sum(1).double() / 2
    assert change.images == 3
    assert change.missed == pytest.approx(float(each.mean()), rel=1e-6)
    assert change.error == pytest.approx(float(each.std()) / math.sqrt(3), rel=1e-6)
    assert change.moved == pytest.approx(float((before - after).norm() / before.norm()), rel=1e-6)
    assert change.agreement == pytest.approx(2 / 3)
    rise = functional.cross_entropy(after, labels) - functional.cross_entropy(before, labels)
    assert change.loss == pytest.approx(float(rise), rel=1e-5)
    assert change.top1 == pytest.approx(-1 / 3)
    assert change.right == pytest.approx(1 / 3)


def test_without_labels_nothing_is_said_of_top1() -> None:
    change = Change()
    change.add(Reference(torch.eye(4), None), torch.eye(4), 4)
    assert (change.missed, change.agreement, change.loss, change.top1) == (0.0, 1.0, None, None)
    assert change.error == 0


def test_outputs_that_are_no_logits() -> None:
    before, after = {"boxes": torch.full((2, 3), 2.0)}, {"boxes": torch.full((2, 3), 3.0)}
    change = Change()
    change.add(Reference(before, None), after, 2)
    change.add(Reference(before, None), before, 2)
    assert change.missed == pytest.approx(0.25)
    assert change.moved == pytest.approx(math.sqrt(1 / 8))
    assert change.agreement is None
    assert not is_logits(torch.zeros(2, 3, 4))
    assert not is_logits(torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (torch.tensor([[math.nan, 0.0]]), "without it outputs are not finite"),
        (torch.zeros(1, 3), "without it outputs have another shape"),
    ],
)
def test_what_cannot_be_compared_says_why(after: torch.Tensor, why: str) -> None:
    change = Change()
    change.add(Reference(torch.zeros(1, 2), None), after, 1)
    assert change.why == why
    assert change.missed == math.inf
