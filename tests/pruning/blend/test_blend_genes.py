"""Genes of blends, read as factors."""

from __future__ import annotations

import numpy as np
import pytest

from fxprune.choosing.criterion_clusters import Clusters
from fxprune.pruning.blend.genes import Genome

CLUSTERS = {
    "a": Clusters(("l1", "l2", "taylor"), np.eye(3), (("l2", "l1"), ("taylor",))),
    "b": Clusters(("l1",), np.eye(1), (("l1",),)),
}


def test_genes_are_factors_and_members() -> None:
    genome = Genome(CLUSTERS)
    assert genome.size == 6
    found = genome.factors([0.2, 0.4, 0.8, 0.0, 0.3, 1.0])
    assert found == {"a": {"l2": 0.25, "taylor": 1.0}, "b": {"l1": 1.0}}
    assert genome.factors([0.8, 0.6, 0.2, 1.0, 0.0, 0.0]) == {"a": {"l1": 1.0, "taylor": 0.25}, "b": {"l1": 1.0}}
    assert genome.factors([0.0, 0.0, 0.0, 0.0, 0.0, 0.0]) == {"a": {"l2": 1.0, "taylor": 1.0}, "b": {"l1": 1.0}}


def test_the_uniform_blend_and_single_criteria_are_genes() -> None:
    genome = Genome(CLUSTERS)
    uniform = {"a": {"l2": 1.0, "taylor": 1.0}, "b": {"l1": 1.0}}
    assert genome.factors(genome.uniform()) == uniform
    assert genome.factors(genome.single("l1")) == {"a": {"l1": 1.0, "taylor": 0.0}, "b": {"l1": 1.0}}
    assert genome.factors(genome.single("taylor")) == {"a": {"l2": 0.0, "taylor": 1.0}, "b": {"l1": 1.0}}
    assert genome.factors(genome.single("entropy")) == uniform


@pytest.mark.parametrize("seed", range(3))
def test_drawn_genes_are_read(seed: int) -> None:
    genome = Genome(CLUSTERS)
    genes = genome.drawn(np.random.default_rng(seed))
    assert len(genes) == genome.size
    assert all(type(one) is float and 0 <= one <= 1 for one in genes)
    assert max(genome.factors(genes)["a"].values()) == 1
