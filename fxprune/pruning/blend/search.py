"""Search the blend of criteria after which a network has the most held-out top-1, by evolution.

blend = search_blend(traced, loader, fxprune.Targets(macs=0.5), state="search.json")    # goes on, if it was killed
plan = fxprune.choose(traced, targets=fxprune.Targets(macs=0.5), criterion=blend, data=loader)

Clusters by rank correlation, one candidate a cluster with a calibration factor, and an evolutionary search on
validation accuracy are He et al. (arXiv 2107.05033), of which only the abstract is known. All else is ours, see
:mod:`fxprune.choosing.criterion_clusters` and the files beside this one. The first generation is the uniform blend,
each criterion alone, and what is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from fxprune.choosing.blend_record import Generation, SearchRecord
from fxprune.choosing.criteria.base import say_nothing
from fxprune.choosing.criterion_blend import Blend
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError, LoadError
from fxprune.ir.arguments import option_kinds, require_arguments, require_kind
from fxprune.ir.time_left import Progress
from fxprune.pruning.blend.evolution import TOURNAMENT, next_generation, require_deap
from fxprune.pruning.blend.genes import Genes, Genome
from fxprune.pruning.blend.judge import Judge
from fxprune.pruning.channel_step import channel_step

_LOGGER = logging.getLogger(__name__)
Tell = Callable[[int, int], None]
"""Called before each evaluation, with how many were before it and how many there are."""


@dataclass(frozen=True)
class BlendSettings:
    """How a blend is searched.

    Args:
        population: how many blends a generation has, 3 or more.
        generations: how many there are, 1 or more.
        pool: the names of the criteria to blend; by default :data:`fxprune.pruning.blend.judge.POOL`.

    Raises:
        FxpruneError: one is of another kind, or too few.
    """

    population: int = 20
    generations: int = 20
    pool: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, hint in option_kinds(BlendSettings).items():
            require_kind(getattr(self, name), hint, "BlendSettings", name)
        for name, least in (("population", TOURNAMENT), ("generations", 1)):
            if getattr(self, name) < least:
                raise FxpruneValueError(f"{name} of a blend is {least} at least; got {getattr(self, name)}")


_USUAL = BlendSettings()


def search_blend(
    graph_module: fx.GraphModule,
    data: Iterable[Any],
    targets: Targets | None = None,
    *,
    settings: BlendSettings = _USUAL,
    state: str | Path | None = None,
    progress: Tell = say_nothing,
    **options: Any,
) -> Blend:
    """Return the best blend of criteria that was found for one network and one target, or ratio.

    Args:
        graph_module: what :func:`fxprune.trace` returned; it is never changed.
        data: batches of inputs and labels (N,): half of the images are looked at, half are held out to choose on.
        targets: the shares of costs to leave, if no ``ratio`` is given.
        settings: how it is searched.
        state: a file to write after every generation, and to go on from if it is there.
        progress: called before each evaluation.
        options: those of :class:`fxprune.passes.RemoveChannels`: ratio, scope, multiple_of, least, normalize, keep,
            only, groups, statistics, and seed, of the images and of the evolution.

    Raises:
        FxpruneError: an option is none, DEAP or scipy is not installed, or as :meth:`Judge.of` has it.
        TargetError: the target cannot be met; says what can.
        LoadError: ``state`` is of another search; says what differs.
    """
    require_arguments(search_blend, locals())
    step = channel_step("search_blend", targets or Targets(), options, without=("criterion", "data", "aggregate"))
    require_deap()
    judge = Judge.of(graph_module, data, step, pool=settings.pool)
    return evolved(judge, settings, state=state, progress=progress)


def evolved(
    judge: Judge,
    settings: BlendSettings = _USUAL,
    *,
    state: str | Path | None = None,
    progress: Tell = say_nothing,
) -> Blend:
    """Return the best blend of all generations; what :func:`search_blend` does once ``judge`` has scored."""
    record = _resumed(judge, settings, state)
    genome = Genome(record.clusters)
    seed = judge.step.seed
    done = len(record.generations)
    of, judged = settings.population * settings.generations, done * settings.population
    best = max((top1 for one in record.generations for top1 in one.top1), default=0.0)
    telling = Progress(_LOGGER, of - judged)
    for number in range(done, settings.generations):
        if number:
            last = record.generations[-1]
            population = next_generation(last.genes, last.top1, seed, number)
        else:
            population = first_generation(genome, judge, settings.population)
        tops = []
        for genes in population:
            progress(judged, of)
            telling.tell(
                judged - done * settings.population, f"blend: generation {number + 1}, best top-1 {best:.1%}"
            )
            tops.append(judge.top1(genome.factors(genes)))
            judged, best = judged + 1, max(best, tops[-1])
        record.generations.append(Generation(population, tops))
        if state is not None:
            record.save(Path(state))
    return best_of(record, genome)


def best_of(record: SearchRecord, genome: Genome) -> Blend:
    """Return the best blend of a search: of equals the first."""
    found = [(top1, genes) for one in record.generations for top1, genes in zip(one.top1, one.genes, strict=True)]
    top1, genes = max(found, key=lambda one: one[0])
    return Blend(genome.factors(genes), top1)


def first_generation(genome: Genome, judge: Judge, count: int) -> list[Genes]:
    """Return so many genes: the uniform blend, each criterion alone, and what is drawn by the seed."""
    random = np.random.default_rng(judge.step.seed)
    known = [genome.uniform(), *map(genome.single, judge.pool)]
    return [*known, *(genome.drawn(random) for _ in range(count))][:count]


def _resumed(judge: Judge, settings: BlendSettings, state: str | Path | None) -> SearchRecord:
    """Return the search that ``state`` holds, as far as it goes here, or a new one."""
    asked = {**judge.asked, "population": settings.population}
    found = SearchRecord(asked, judge.clusters)
    if state is not None and Path(state).exists():
        found = SearchRecord.load(state)
        found.require_same(asked, Path(state))
        _require_whole(found, judge, Path(state))
        found.generations = found.generations[: settings.generations]
    return found


def _require_whole(record: SearchRecord, judge: Judge, path: Path) -> None:
    """Raise LoadError if a search that was read has other groups or criteria than ``judge``, or genes of no blend."""
    criteria = {name for one in record.clusters.values() for members in one.members for name in members}
    size = Genome(record.clusters).size
    genes = [one for each in record.generations for one in each.genes]
    tops = [one for each in record.generations for one in each.top1]
    numbers = all(type(one) in (int, float) and 0 <= one <= 1 for one in (*tops, *chain.from_iterable(genes)))
    alike = all(len(one) == size for one in genes) and len(genes) == len(tops)
    if record.clusters.keys() != judge.scores.keys() or not criteria <= set(judge.pool) or not (numbers and alike):
        raise LoadError(f"{path} is a damaged search: its genes are not those of its clusters; remove it")
