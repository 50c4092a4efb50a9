"""Searches for blocks: balanced, seeded, and right where the right blocks are known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.choosing.partitions.balanced import assigned, exchanged
from fxprune.choosing.partitions.base import Mass, kept_mass, sizes
from fxprune.choosing.partitions.choose import SEARCHES
from fxprune.choosing.partitions.masses import mass_of
from fxprune.errors import FxpruneValueError
from fxprune.ir.weight_blocks import Assignment

CHOOSING = [name for name in SEARCHES if name != "random"]


def hidden(widths: Sequence[int], blocks: int, noise: float, seed: int = 0) -> tuple[list[Mass], list[Assignment]]:
    """Return masses in which blocks are hidden, and these."""
    rng = np.random.default_rng(seed)
    found = [rng.permutation(np.repeat(np.arange(blocks), sizes(width, blocks))) for width in widths]
    masses = []
    for columns, rows in pairwise(found):
        inside = np.where(rows[:, None] == columns, 1.0, noise)
        masses.append((rng.uniform(0.5, 1, inside.shape) * inside) ** 2)
    return masses, found


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("blocks", [2, 3, 7, 16])
def test_blocks_are_balanced_to_one_and_seeded(name: str, blocks: int) -> None:
    masses, _ = hidden((20, 33, 17), blocks, 0.9)
    once, again = (SEARCHES[name]().find(masses, blocks, np.random.default_rng(5)) for _ in range(2))
    for one, other, width in zip(once, again, (20, 33, 17), strict=True):
        assert np.bincount(one, minlength=blocks).tolist() == sizes(width, blocks)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("blocks", [2, 4])
def test_hidden_blocks_are_found(name: str, blocks: int) -> None:
    masses, known = hidden((16, 32, 24), blocks, 0.1)
    found = SEARCHES[name]().find(masses, blocks, np.random.default_rng(0))
    assert kept_mass(masses, found) == pytest.approx(kept_mass(masses, known))


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("blocks", range(2, 17))
def test_less_is_lost_than_at_random_for_every_number(name: str, blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    masses = [rng.normal(size=shape) ** 2 for shape in ((32, 24), (20, 32))]
    drawn = [sum(kept_mass(masses, SEARCHES["random"]().find(masses, blocks, rng))) for _ in range(20)]
    chosen = SEARCHES[name]().find(masses, blocks, np.random.default_rng(0))
    assert sum(kept_mass(masses, chosen)) > max(drawn)


@pytest.mark.parametrize("name", CHOOSING)
def test_masses_of_zero_and_below_are_taken(name: str) -> None:
    rng = np.random.default_rng(0)
    masses = [np.zeros((8, 6)), rng.normal(size=(4, 8))]
    found = SEARCHES[name]().find(masses, 2, rng)
    assert [np.bincount(one).tolist() for one in found] == [[3, 3], [4, 4], [2, 2]]


def test_min_cut_refuses_what_would_take_hours() -> None:
    masses = [np.ones((4000, 3000))]
    with pytest.raises(FxpruneValueError, match="give search alternating"):
        SEARCHES["min-cut"]().find(masses, 2, np.random.default_rng(0))


def test_the_best_assignment_is_that_by_hand() -> None:
    gain = np.array([[5.0, 1], [4, 0], [9, 8], [1, 0]])  # two each: 5 + 4 + 8 + 0 beats 9 + 5 + 0 + 0
    now = np.array([0, 1, 0, 1])
    assert assigned(gain, now).tolist() == [0, 0, 1, 1]
    assert exchanged(gain, now).tolist() == [0, 0, 1, 1]
    assert now.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_exchanges_come_near_the_best_assignment(blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    gain = rng.normal(size=(60, blocks))
    now = rng.permutation(np.repeat(np.arange(blocks), sizes(60, blocks)))
    exact, near = (gain[np.arange(60), one(gain, now)].sum() for one in (assigned, exchanged))
    assert exact >= near - 1e-9
    assert near >= 0.95 * exact
    if blocks == 2:
        assert near == pytest.approx(exact)


def test_masses_by_hand() -> None:
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0, -3.0]])
    read = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])  # means 2, 0, 1; S = [[1, 0, -1], [0, 0, 0], [-1, 0, 1]]
    apart = np.arange(3)
    assert mass_of(layer, "weight", None, apart).tolist() == [[1, 4, 9]]
    assert mass_of(layer, "activation", read, apart).tolist() == [[5, 0, 18]]
    assert mass_of(layer, "cap", read, apart).tolist() == [[4, 0, 12]]  # w_j (w S)_j of w S = [4, 0, -4]
    assert mass_of(layer, "weight", None, np.array([0, 1, 0])).tolist() == [[10, 4]]


def test_shares_of_the_quadratic_add_up_to_the_variance() -> None:
    torch.manual_seed(0)
    layer, read = nn.Linear(6, 4).double(), torch.randn(50, 6, dtype=torch.float64)
    variance = layer(read).var(0, correction=0)
    assert mass_of(layer, "cap", read, np.arange(6)).sum(1) == pytest.approx(variance.detach().numpy())
