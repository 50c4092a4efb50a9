"""One generation after another."""

from __future__ import annotations

import random
import sys

import pytest

import fxprune
from fxprune.pruning.blend.evolution import ELITES, next_generation

POPULATION = [[number / 10] * 8 for number in range(10)]
FITNESS = [float(number) for number in range(10)]


def test_elites_stay_and_children_are_in_range() -> None:
    found = next_generation(POPULATION, FITNESS, seed=0, number=1)
    assert found[:ELITES] == [POPULATION[9], POPULATION[8]]
    assert len(found) == len(POPULATION)
    assert all(0 <= gene <= 1 and len(one) == 8 for one in found for gene in one)
    assert any(one not in POPULATION for one in found[ELITES:])


def test_odd_populations_keep_their_size() -> None:
    assert len(next_generation(POPULATION[:3], FITNESS[:3], seed=0, number=1)) == 3


def test_the_seed_and_the_number_say_what_comes_and_others_random_numbers_stay() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    first, again, later, other = (
        next_generation(POPULATION, FITNESS, *given) for given in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert random.random() == expected
    assert first == again
    assert first != later != other != first


def test_it_climbs() -> None:
    population = [[0.1] * 4 for _ in range(20)]
    for number in range(30):
        population = next_generation(population, [sum(one) for one in population], 0, number)
    assert max(map(sum, population)) > 3.5


def test_without_deap_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deap", None)
    with pytest.raises(fxprune.FxpruneError, match=r"needs DEAP and scipy; pip install 'fxprune\[blend\]'"):
        next_generation(POPULATION, FITNESS, 0, 1)
