"""What a searched blend has to beat, judged by the same fitness: all clusters alike, factors drawn, one criterion."""

from __future__ import annotations

import numpy as np

from fxprune.choosing.criteria.base import say_nothing
from fxprune.choosing.criterion_blend import Blend
from fxprune.errors import FxpruneValueError
from fxprune.pruning.blend.genes import Genes, Genome
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.blend.search import Tell


def uniform_blend(judge: Judge) -> Blend:
    """Return the blend in which every cluster of every group counts the same, each by its middle member."""
    return _best(judge, [Genome(judge.clusters).uniform()], say_nothing)


def best_single(judge: Judge, progress: Tell = say_nothing) -> Blend:
    """Return the criterion of the pool that is best alone, as a blend.

    What it does not rank (``bn-gamma`` where there is no batch norm) is ranked by the uniform blend.
    """
    genome = Genome(judge.clusters)
    return _best(judge, [genome.single(name) for name in judge.pool], progress)


def random_blend(judge: Judge, evaluations: int, seed: int = 0, progress: Tell = say_nothing) -> Blend:
    """Return the best of so many blends whose factors and members are drawn; raises FxpruneValueError below one."""
    if evaluations < 1:
        raise FxpruneValueError(f"evaluations of a random blend are 1 at least; got {evaluations}")
    genome, random = Genome(judge.clusters), np.random.default_rng(seed)
    return _best(judge, [genome.drawn(random) for _ in range(evaluations)], progress)


def _best(judge: Judge, candidates: list[Genes], progress: Tell) -> Blend:
    """Return the best of ``candidates``: of equals the first."""
    genome = Genome(judge.clusters)
    found = []
    for number, genes in enumerate(candidates):
        progress(number, len(candidates))
        factors = genome.factors(genes)
        found.append(Blend(factors, judge.top1(factors)))
    return max(found, key=lambda one: one.top1 or 0.0)
