"""Scores of channels by any criterion: comparable between groups, checked, infinite where they must stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from criterion_nets import small

from fxprune.choosing.channel_scores import Normalize, channel_scores, normalized, site_scores
from fxprune.choosing.criteria.base import ChannelCriterion
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.named import known_criteria
from fxprune.choosing.samples import Samples
from fxprune.choosing.sites import channel_sites
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Worth


@pytest.mark.parametrize(
    "name", sorted(set(known_criteria()) - {"weight-norm", "blend"})
)  # of layers; searched for a target
def test_every_criterion_gives_each_channel_a_number(name: str) -> None:
    _, graph, images, labels = small()
    worth = channel_scores(graph, name, Samples.of(graph, [(images, labels)]))[""]
    channels = Channels(graph)
    free = np.concatenate([group.free for group in channels.groups])
    assert worth.shape == (len(channels.labels),)
    assert worth.dtype == np.float64
    assert np.isinf(np.delete(worth, free)).all()
    assert (worth[free] >= 0).all()
    if name != "bn-gamma":
        assert np.isfinite(worth[free]).all()


def test_sites_have_theirs_in_their_order() -> None:
    _, graph, _, _ = small()
    sites = channel_sites(graph)
    found = site_scores(graph, sites, "l1")
    worth = channel_scores(graph)[""]
    for site, scores in zip(sites, found, strict=True):
        np.testing.assert_array_equal(scores, worth[site.group.free])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [3, 1, np.inf, 4, 1]),
        ("mean", [3 / 2.25, 1 / 2.25, np.inf, 4 / 2.25, 1 / 2.25]),
        ("max", [0.75, 0.25, np.inf, 1, 0.25]),
        ("lamp", [9 / 25, 1 / 27, np.inf, 1, 1 / 27]),
    ],
)
def test_normalisations(how: Normalize, expected: list[float]) -> None:
    np.testing.assert_allclose(normalized(np.array([3.0, 1.0, np.inf, 4.0, 1.0]), how), expected)


@pytest.mark.parametrize("how", ["none", "mean", "max", "lamp"])
def test_zeros_stay_zeros(how: Normalize) -> None:
    assert normalized(np.zeros(3), how).tolist() == [0, 0, 0]
    assert np.isinf(normalized(np.full(2, np.inf), how)).all()


def test_lamp_is_what_the_paper_says() -> None:
    squares = np.random.default_rng(0).random(20) ** 2
    expected = [one / sum(other for other in squares if other >= one) for one in squares]
    np.testing.assert_allclose(normalized(np.sqrt(squares), "lamp"), expected)


def test_each_group_is_normalised_by_itself() -> None:
    _, graph, _, _ = small()
    sites = channel_sites(graph)
    plain, means = site_scores(graph, sites), site_scores(graph, sites, normalize="mean")
    for scores, found in zip(plain, means, strict=True):
        np.testing.assert_allclose(found, scores / scores.mean())


def test_options_are_those_of_the_criterion() -> None:
    _, graph, _, _ = small()
    sites = channel_sites(graph)
    mean, total = (site_scores(graph, sites, "l1", aggregate=one)[0] for one in ("mean", "sum"))
    np.testing.assert_allclose(mean, total / 2)
    one, two = (site_scores(graph, sites, "random", seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(site_scores(graph, sites, L1("mean"), aggregate="sum")[0], mean)  # as it was made
    np.testing.assert_allclose(site_scores(graph, sites, "l1", aggregate="sum", seed=0)[0], total)
    with pytest.raises(FxpruneValueError, match="criterion apoz takes no aggregate; got aggregate='mean'"):
        site_scores(graph, sites, "apoz", aggregate="mean")
    with pytest.raises(FxpruneError, match="unknown criterion 'l3'; did you mean"):
        site_scores(graph, sites, "l3")
    for name in ("l1", "bn-gamma"):
        with pytest.raises(FxpruneError, match="takes 'sum' or 'mean' for aggregate, got str 'median'"):
            site_scores(graph, sites, name, aggregate="median")
    with pytest.raises(FxpruneError, match="takes 'none' or 'mean' or 'max' or 'lamp' for normalize, got str 'min'"):
        site_scores(graph, sites, "l1", normalize="min")  # type: ignore[arg-type]


def test_runs_are_told() -> None:
    _, graph, images, _ = small()
    told: list[tuple[int, int]] = []
    given = Samples.of(graph, [images])
    site_scores(graph, channel_sites(graph), "damage", given, comparing=lambda *one: told.append(one))
    assert told[-1] == (8, 9)


def test_weights_that_are_nan_name_their_layer() -> None:
    _, graph, images, labels = small()
    with torch.no_grad():
        graph.get_parameter("three.weight")[1] = float("nan")
    for name in ("l1", "l2", "fpgm", "taylor", "fisher", "entropy", "apoz", "damage"):
        with pytest.raises(FxpruneValueError, match="the weights of three hold NaN: no criterion can rank"):
            channel_scores(graph, name, Samples.of(graph, [(images, labels)]))


def test_so_do_images_that_are() -> None:
    _, graph, images, _ = small()
    images[0] = float("nan")
    with pytest.raises(FxpruneValueError, match="criterion apoz is NaN for channels of one, though no weight is"):
        channel_scores(graph, "apoz", Samples.of(graph, [images]))


def test_a_criterion_that_returns_something_else_is_named() -> None:
    class Short(ChannelCriterion):
        name = "short"

        def by_class(self, channels: Channels, samples: Samples) -> Worth:
            return np.zeros((len(channels.labels), 2))

    _, graph, _, _ = small()
    with pytest.raises(FxpruneValueError, match=r"short returned an array of shape \(4, 2\) for one, which has 4"):
        site_scores(graph, channel_sites(graph), Short())
