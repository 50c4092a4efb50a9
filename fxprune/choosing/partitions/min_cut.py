"""Minimum cuts by Kernighan and Lin (1970; networkx's), two parts at a time, balanced afterwards.

All features of a chain are the nodes of one graph, joined by the heaviest masses of each. It is cut in two, and each
part again, until there are as many as blocks. The cut shares all nodes out evenly, not those of each layer:
:func:`fxprune.choosing.partitions.alternating.settled` does that
(ours, as are cuts into numbers that are no powers of two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import networkx as nx
import numpy as np

from fxprune.choosing.partitions.alternating import settled
from fxprune.choosing.partitions.balanced import exchanged
from fxprune.choosing.partitions.base import BlockSearch, Mass, shuffled, widths
from fxprune.errors import FxpruneValueError
from fxprune.ir.weight_blocks import Assignment

_STRONGEST = 8
"""So many of each node's edges are looked at."""
_MOST = 6000
_ROUNDS = 3


class MinCut(BlockSearch):
    """Cuts the graph of features where least weight is cut."""

    name: ClassVar[str] = "min-cut"

    def find(self, masses: Sequence[Mass], blocks: int, rng: np.random.Generator) -> list[Assignment]:
        """See :meth:`BlockSearch.find`; raises FxpruneValueError where it would take hours."""
        counts = widths(masses)
        if sum(counts) > _MOST:
            raise FxpruneValueError(
                f"min-cut takes up to {_MOST:,} features, and these are {sum(counts):,}: give search alternating"
            )
        parts = np.zeros(sum(counts), dtype=np.int64)
        _cut(_graph(masses, counts), np.arange(len(parts)), range(blocks), parts, rng)
        found = [shuffled(width, blocks, rng) for width in counts]
        for place, clusters in enumerate(np.split(parts, np.cumsum(counts)[:-1])):
            found[place] = exchanged(np.eye(blocks)[clusters], found[place])
        return settled(masses, blocks, found)


def _graph(masses: Sequence[Mass], counts: Sequence[int]) -> nx.Graph[int]:
    """Return the graph of all features, numbered through, with the heaviest edges of each."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(sum(counts)))
    starts = np.concatenate(([0], np.cumsum(counts)))
    for layer, mass in enumerate(masses):
        for one, first, second in ((mass, layer + 1, layer), (mass.T, layer, layer + 1)):
            count = min(_STRONGEST, one.shape[1])
            strongest = np.argpartition(-one, count - 1, axis=1)[:, :count]
            rows = np.repeat(np.arange(len(one)), count)
            weights = one[rows, strongest.ravel()]
            edges = zip(rows + starts[first], strongest.ravel() + starts[second], weights, strict=True)
            graph.add_weighted_edges_from((int(a), int(b), float(c)) for a, b, c in edges if c > 0)
    return graph


def _cut(graph: nx.Graph[int], nodes: Assignment, blocks: range, parts: Assignment, rng: np.random.Generator) -> None:
    """Share ``nodes`` out to ``blocks``, in ``parts``."""
    if len(blocks) == 1:
        parts[nodes] = blocks[0]
        return
    half = len(blocks) // 2
    drawn = rng.permutation(nodes)
    at = len(nodes) * half // len(blocks)
    start = set(drawn[:at].tolist()), set(drawn[at:].tolist())
    inside = graph.subgraph(nodes.tolist())
    seed = int(rng.integers(1 << 31))
    cut = nx.community.kernighan_lin_bisection(inside, start, max_iter=_ROUNDS, seed=seed)
    for side, into in zip(cut, (blocks[:half], blocks[half:]), strict=True):
        _cut(graph, np.array(sorted(side), dtype=np.int64), into, parts, rng)
