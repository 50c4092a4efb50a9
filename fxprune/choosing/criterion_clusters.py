"""Which criteria say the same of a group of channels: clusters by Spearman's correlation of their ranks.

    distance of two criteria = 1 - rho      average linkage, cut into the 2 to 4 clusters with the best silhouette

Clusters by rank correlation, layer by layer, are He et al. (arXiv 2107.05033); linkage, silhouette (Rousseeuw, 1987)
and their number are ours. Needs scipy, the extra ``blend``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.errors import FxpruneError
from fxprune.structures.channels.running import Worth

Matrix = NDArray[np.float64]
FEWEST, MOST = 2, 4
_ALIKE = 1e-9  # distances below are of one ranking


@dataclass(frozen=True)
class Clusters:
    """The criteria of one group of channels, in clusters.

    Attributes:
        names: the criteria that rank it: all of its scores are finite, and not all are one.
        correlation: Spearman's rho of each two, (len(names), len(names)).
        members: the clusters, in the order of ``names``; in each the one that is nearest to the others comes first.
    """

    names: tuple[str, ...]
    correlation: Matrix
    members: tuple[tuple[str, ...], ...]


def clusters_of(scores: Mapping[str, Worth]) -> Clusters:
    """Return the clusters of the criteria that rank one group, by name their scores of it, each (width,).

    Where no criterion ranks it the first one stands alone. Raises FxpruneError if scipy is not installed.
    """
    try:
        from scipy.stats import rankdata
    except ImportError as error:
        raise lacks_extra() from error
    names = tuple(one for one, worth in scores.items() if np.isfinite(worth).all() and np.ptp(worth) > 0)
    if len(names) < FEWEST:
        names = names or tuple(scores)[:1]
        return Clusters(names, np.ones((1, 1)), (names,))
    ranks = np.stack([rankdata(scores[one]) for one in names])
    correlation = np.clip(np.corrcoef(ranks), -1, 1)
    return Clusters(names, correlation, _members(names, 1 - correlation))


def mean_correlation(clusters: Mapping[str, Clusters]) -> tuple[list[str], Matrix]:
    """Return all criteria, those that rank alike side by side, and the means of rho over the groups that both rank.

    NaN where no group has both. Raises FxpruneError if scipy is not installed.
    """
    names = list(dict.fromkeys(name for one in clusters.values() for name in one.names))
    sums, counts = np.zeros((2, len(names), len(names)))
    for one in clusters.values():
        places = np.ix_(*[[names.index(name) for name in one.names]] * 2)
        sums[places] += one.correlation
        counts[places] += 1
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    order = _side_by_side(1 - np.nan_to_num(means))
    return [names[one] for one in order], means[np.ix_(order, order)]


def _side_by_side(distances: Matrix) -> list[int]:
    """Return the places of criteria in the order of the leaves of their tree."""
    if len(distances) < FEWEST:
        return list(range(len(distances)))
    try:
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise lacks_extra() from error
    return [int(one) for one in leaves_list(linkage(squareform(distances, checks=False), "average"))]


def lacks_extra() -> FxpruneError:
    """Return what to raise where a package of the extra ``blend`` is not installed."""
    return FxpruneError("a blend of criteria needs DEAP and scipy; pip install 'fxprune[blend]'")


def _members(names: Sequence[str], distances: Matrix) -> tuple[tuple[str, ...], ...]:
    found = []
    labels = _labels(distances)
    for label in dict.fromkeys(labels.tolist()):
        mine = np.flatnonzero(labels == label)
        within = distances[np.ix_(mine, mine)].sum(1)
        found.append(tuple(names[one] for one in mine[np.argsort(within, kind="stable")]))
    return tuple(found)


def _labels(distances: Matrix) -> NDArray[np.int64]:
    """Return the cluster of each criterion: (n, n) -> (n,)."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    count = len(distances)
    if distances.max() < _ALIKE:
        return np.zeros(count, np.int64)
    tree = linkage(squareform(distances, checks=False), "average")
    cuts = [fcluster(tree, number, "maxclust") for number in range(FEWEST, min(MOST, count - 1) + 1)]
    cuts = [one for one in cuts if len(set(one)) > 1] or [np.arange(count)]
    best: NDArray[np.int64] = max(cuts, key=lambda labels: silhouette(distances, labels))
    return best


def silhouette(distances: Matrix, labels: NDArray[np.int64]) -> float:
    """Return the mean of (b - a) / max(a, b) over all, 0 for one that is alone in its cluster (Rousseeuw, 1987).

    a is the mean distance to the others of its cluster, b the least mean distance to those of another one.
    """
    found = []
    for index, label in enumerate(labels):
        own = labels == label
        if own.sum() == 1:
            found.append(0.0)
            continue
        a = float(distances[index, own].sum() / (own.sum() - 1))
        b = min(float(distances[index, labels == other].mean()) for other in set(labels.tolist()) - {label})
        found.append((b - a) / max(a, b, _ALIKE))
    return float(np.mean(found))
