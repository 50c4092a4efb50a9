"""Moved labels are what the op does to an array of them, written out at the size of the value."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fxprune.structures.channels.moving import TooLarge, inserted, permuted, reshaped, taken
from fxprune.structures.channels.values import Layer, Value, value_along, varying


def spread(value: Value) -> Any:
    """Return the labels of the one layer of a value for each of its elements; zeros if it has none."""
    if not value.layers:
        return np.zeros(value.shape, dtype=np.int64)
    (layer,) = value.layers
    order = np.argsort(layer.axes)
    sizes = [size if axis in layer.axes else 1 for axis, size in enumerate(value.shape)]
    return np.broadcast_to(layer.labels.transpose(order).reshape(sizes), value.shape)


def factors(chance: random.Random, size: int) -> list[int]:
    """Return sizes whose product is ``size``, ones among them."""
    found = []
    while size > 1:
        part = chance.choice([one for one in range(2, size + 1) if size % one == 0])
        found.append(part)
        size //= part
    return found + [1] * chance.randrange(2)


@pytest.mark.parametrize("seed", range(200))
def test_chains_of_moves(seed: int) -> None:
    chance = random.Random(seed)
    shape = (chance.choice([1, 2, 3]), chance.choice([4, 6, 8, 12]), chance.choice([1, 2, 5]), 3)
    value = value_along(shape, 1, [np.arange(1, shape[1] + 1)])
    known = spread(value)
    for _ in range(6):
        move = chance.choice(["reshape", "permute", "take", "insert"])
        if move == "reshape":
            new = factors(chance, known.size)
            chance.shuffle(new)
            value, known = reshaped(value, new), known.reshape(new)
        elif move == "permute":
            axes = chance.sample(range(known.ndim), known.ndim)
            value, known = permuted(value, axes), known.transpose(axes)
        elif move == "insert":
            axis = chance.randrange(known.ndim + 1)
            value, known = inserted(value, axis), np.expand_dims(known, axis)
        else:
            axis = chance.randrange(known.ndim)
            index = slice(None, None, -1)
            value, known = taken(value, axis, index), known[(slice(None),) * axis + (index,)]
        assert value.shape == known.shape
        assert not value.layers or np.array_equal(spread(value), known)
        if not value.layers:
            assert len(np.unique(known)) == 1


def test_nothing_is_written_out_at_the_size_of_a_value() -> None:
    value = value_along((64, 512, 1 << 20), 1, [np.arange(1, 513)])
    assert reshaped(value, (64, 8, 64, 1024, 1024)).layers[0].axes == (1, 2)
    with pytest.raises(TooLarge):
        reshaped(value, (64, 512 * (1 << 20)))


def test_axes_along_which_labels_are_the_same_are_dropped() -> None:
    rows = np.repeat(np.arange(1, 5)[:, None], 3, axis=1)
    assert varying((0, 2), rows) is not None
    assert varying((0, 2), rows).axes == (0,)  # type: ignore[union-attr]
    assert varying((0, 2), np.ones((4, 3), dtype=np.int64)) is None
    assert Layer((0,), rows[:, 0]).axes == (0,)
