"""What evolves of a blend: for each group and each cluster of its criteria a factor and which of them stands for it.

    genes of a group = f_1, m_1, f_2, m_2, ...                             all in [0, 1]
    factor of cluster c = f_c / max f                                      so that one is 1; all are where all f are 0
    member of cluster c = the one at place floor(m_c * number of members)  the one nearest to the others at 0

One candidate a cluster with a calibration factor is He et al. (arXiv 2107.05033); how they are encoded is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fxprune.choosing.criterion_clusters import Clusters

Genes = list[float]


class Genome:
    """Reads genes, numbers in [0, 1], as factors of criteria; ``clusters`` are those of each group.

    Attributes:
        size: how many genes there are.
    """

    def __init__(self, clusters: Mapping[str, Clusters]) -> None:
        self._members = {path: one.members for path, one in clusters.items()}
        self.size = 2 * sum(map(len, self._members.values()))

    def factors(self, genes: Sequence[float]) -> dict[str, dict[str, float]]:
        """Return the factors of criteria by group that these ``size`` genes say."""
        found: dict[str, dict[str, float]] = {}
        left = iter(genes)
        for path, clusters in self._members.items():
            drawn = [(next(left), next(left)) for _ in clusters]
            most = max(factor for factor, _ in drawn)
            found[path] = {
                members[min(int(which * len(members)), len(members) - 1)]: factor / most if most else 1.0
                for members, (factor, which) in zip(clusters, drawn, strict=True)
            }
        return found

    def uniform(self) -> Genes:
        """Return the genes of the blend in which all clusters count the same, each by its middle member."""
        return [1.0, 0.0] * (self.size // 2)

    def single(self, name: str) -> Genes:
        """Return the genes of one criterion alone; where it does not rank a group all clusters count the same."""
        ranks = {path: any(name in members for members in found) for path, found in self._members.items()}

        def of(members: Sequence[str], path: str) -> tuple[float, float]:
            if name in members:
                return 1.0, (members.index(name) + 0.5) / len(members)
            return (0.0 if ranks[path] else 1.0), 0.0

        return [
            gene for path, clusters in self._members.items() for members in clusters for gene in of(members, path)
        ]

    def drawn(self, random: np.random.Generator) -> Genes:
        """Return genes that are drawn."""
        return [float(one) for one in random.random(self.size)]
