"""What a searched blend has to beat, by the same fitness."""

from __future__ import annotations

import pytest
from blend_nets import NORMED, PLAIN, POOL, judged

import fxprune
from fxprune.pruning.blend.controls import best_single, random_blend, uniform_blend
from fxprune.pruning.blend.genes import Genome

pytestmark = pytest.mark.filterwarnings("ignore:a blend is chosen by top-1 on:fxprune.errors.FxpruneWarning")


def test_the_uniform_blend_counts_all_clusters_alike() -> None:
    judge = judged()
    found = uniform_blend(judge)
    assert set(found.factors) == {NORMED, PLAIN}
    assert {factor for group in found.factors.values() for factor in group.values()} == {1.0}
    assert found.top1 == judge.top1(found.factors)


def test_the_best_criterion_is_no_worse_than_any() -> None:
    judge = judged()
    found = best_single(judge)
    genome = Genome(judge.clusters)
    assert found.top1 == max(judge.top1(genome.factors(genome.single(name))) for name in POOL)


def test_drawn_blends_are_as_many_as_asked_for() -> None:
    judge = judged()
    told: list[tuple[int, int]] = []
    first = random_blend(judge, 5, seed=1, progress=lambda *one: told.append(one))
    assert told == [(one, 5) for one in range(5)]
    assert random_blend(judge, 5, seed=1) == first
    assert random_blend(judge, 10, seed=1).top1 >= first.top1  # type: ignore[operator]
    with pytest.raises(fxprune.FxpruneError, match="evaluations of a random blend are 1 at least; got 0"):
        random_blend(judge, 0)
