"""Labels that go together: joined, pinned, counted."""

from __future__ import annotations

import numpy as np
import pytest
from torch import fx

from fxprune.structures.channels.labels import Labels, Reason

WHY = Reason(fx.Graph().placeholder("x"), "is read")


def test_joined_labels_have_one_class_the_smallest() -> None:
    labels = Labels()
    first, second = labels.fresh(4), labels.fresh(4)
    labels.join(first, second, WHY)
    labels.join(second[:2], second[2:], WHY)
    assert labels.find(second).tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_joins_are_those_of_a_plain_union_find(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels = Labels()
    every = labels.fresh(3000)
    known = {int(one): {int(one)} for one in every}
    for _ in range(20):
        first, second = chance.choice(every, 60), chance.choice(every, 60)
        labels.join(first, second, WHY)
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            if known[one] is not known[other]:
                known[one] |= known[other]
                for each in known[other]:
                    known[each] = known[one]
    assert labels.find(every).tolist() == [min(known[int(one)]) for one in every]


def test_what_meets_no_channel_stays_and_so_does_all_that_goes_with_it() -> None:
    labels = Labels()
    rows = labels.fresh(3)
    labels.join(rows, np.array([0, 5, 0]) * 0, WHY)
    assert set(labels.reasons()) == set(rows.tolist())
    assert str(labels.reasons()[1]) == "x: is read"


def test_a_pin_holds_for_what_is_joined_later() -> None:
    labels = Labels()
    first, second = labels.fresh(2), labels.fresh(2)
    labels.pin(second[:1], WHY)
    labels.join(first, second, WHY)
    assert set(labels.reasons()) == {int(first[0])}


def test_classes_along_an_axis() -> None:
    labels = Labels()
    rows = labels.fresh(12).reshape(3, 4)
    assert (labels.classes_along(rows, 0), labels.classes_along(rows, 1)) == (3, 4)
    labels.join_along(rows, 0, WHY)
    assert (labels.classes_along(rows, 0), labels.classes_along(rows, 1)) == (1, 4)
