"""One generation of an evolutionary search, by DEAP (Fortin et al., JMLR 2012); how it is set up is ours.

two elites stay | parents by tournaments of three | uniform crossover | Gaussian mutation, cut off at 0 and 1

A generation depends on the one before, its fitness, the seed and its number alone, so a search can go on from any.
Needs DEAP, the extra ``blend``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fxprune.choosing.criterion_clusters import lacks_extra

ELITES, TOURNAMENT = 2, 3
_CROSSED, _SWAPPED = 0.9, 0.5  # the share of pairs that cross, and of their genes that change places
_MUTATED, _SIGMA = 0.1, 0.2  # the share of genes that mutate, and by how much


def require_deap() -> Any:
    """Return DEAP's tools; raises FxpruneError if it is not installed."""
    try:
        from deap import tools
    except ImportError as error:
        raise lacks_extra() from error
    return tools


def next_generation(
    population: Sequence[Sequence[float]], fitness: Sequence[float], seed: int, number: int
) -> list[list[float]]:
    """Return as many individuals as ``population`` has: the two best, and children of those that win tournaments.

    Args:
        population: genes in [0, 1] of each, at least three.
        fitness: of each; more is better.
        seed: of the search.
        number: of the generation; 0 is the first.
    """
    tools = require_deap()
    ranked = [_Individual(genes, one) for genes, one in zip(population, fitness, strict=True)]
    with _seeded(f"{seed} {number}"):
        found = [list(one) for one in tools.selBest(ranked, ELITES)]
        while len(found) < len(ranked):
            pair = [list(one) for one in tools.selTournament(ranked, 2, TOURNAMENT)]
            if random.random() < _CROSSED:
                tools.cxUniform(*pair, _SWAPPED)
            for child in pair:
                tools.mutGaussian(child, 0.0, _SIGMA, _MUTATED)
                found.append([min(max(gene, 0.0), 1.0) for gene in child])
    return found[: len(ranked)]


class _Individual(list[float]):
    """What DEAP selects by its ``fitness``, which may be any number."""

    def __init__(self, genes: Sequence[float], fitness: float) -> None:
        super().__init__(genes)
        self.fitness = fitness


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed Python's own random numbers, which DEAP draws; those of others stay as they were."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
