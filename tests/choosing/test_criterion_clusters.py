"""Clusters of criteria by rank correlation, against scikit-learn and by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

import fxprune
from fxprune.choosing.criterion_clusters import Clusters, clusters_of, mean_correlation, silhouette

ORDER = np.arange(8.0)
MIXED = np.array([3.0, 1, 7, 0, 4, 6, 2, 5])


def test_criteria_that_rank_alike_are_one_cluster() -> None:
    scores = {"a": ORDER, "b": MIXED, "c": ORDER**3, "d": -MIXED, "e": np.exp(MIXED)}
    found = clusters_of(scores)
    assert found.names == tuple("abcde")
    assert found.members == (("a", "c"), ("b", "e"), ("d",))
    np.testing.assert_allclose(found.correlation[0, 2], 1)
    np.testing.assert_allclose(found.correlation[1, 3], -1)


def test_the_member_that_is_nearest_to_the_others_comes_first() -> None:
    far, middle, other = ORDER.copy(), ORDER.copy(), ORDER.copy()
    far[[0, 1, 2]] = far[[2, 0, 1]]
    other[[6, 7]] = other[[7, 6]]
    found = clusters_of({"far": far, "middle": middle, "other": other, "away": -ORDER})
    assert found.members[0] == ("middle", "other", "far")


def test_what_does_not_rank_a_group_is_left_out() -> None:
    infinite = np.where(ORDER > 3, np.inf, ORDER)
    found = clusters_of({"constant": np.ones(8), "infinite": infinite, "a": ORDER, "b": MIXED})
    assert found.names == ("a", "b")
    assert found.members == (("a",), ("b",))
    assert clusters_of({"constant": np.ones(8), "a": ORDER}).members == (("a",),)
    assert clusters_of({"constant": np.ones(8), "infinite": infinite}).members == (("constant",),)


def test_criteria_that_rank_all_alike_are_one() -> None:
    assert clusters_of({"a": ORDER, "b": 2 * ORDER, "c": ORDER**2}).members == (("a", "b", "c"),)


def test_there_are_four_clusters_at_most() -> None:
    random = np.random.default_rng(0)
    found = clusters_of({str(one): random.permutation(50).astype(float) for one in range(9)})
    assert 2 <= len(found.members) <= 4
    assert sorted(name for one in found.members for name in one) == [str(one) for one in range(9)]


@pytest.mark.parametrize("seed", range(5))
def test_the_silhouette_is_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.random((7, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    labels = np.array([0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(
        silhouette(distances, labels), silhouette_score(distances, labels, metric="precomputed")
    )


def test_means_over_groups_are_of_those_that_both_rank() -> None:
    one = Clusters(("a", "b"), np.array([[1, 0.5], [0.5, 1]]), (("a",), ("b",)))
    other = Clusters(("b", "c"), np.array([[1, 0.9], [0.9, 1]]), (("b", "c"),))
    names, means = mean_correlation({"x": one, "y": other})
    places = [names.index(name) for name in "abc"]
    expected = [[1, 0.5, np.nan], [0.5, 1, 0.9], [np.nan, 0.9, 1]]
    np.testing.assert_allclose(means[np.ix_(places, places)], expected)
    assert abs(names.index("b") - names.index("c")) == 1
    assert mean_correlation({})[0] == []


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(fxprune.FxpruneError, match=r"needs DEAP and scipy; pip install 'fxprune\[blend\]'"):
        clusters_of({"a": ORDER, "b": MIXED})
