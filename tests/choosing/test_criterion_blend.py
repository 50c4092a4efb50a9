"""Blends of criteria as values: what they score, what they refuse, and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from criterion_nets import MIDDLE, STREAM, scores, small
from helpers import TinyNet
from torch import nn

import fxprune
from fxprune.choosing.criteria.fisher import Fisher
from fxprune.choosing.criteria.l1 import L1
from fxprune.choosing.criterion_blend import Blend, blended, key_of
from fxprune.choosing.sites import channel_sites
from fxprune.passes import RemoveChannels

FACTORS = {STREAM: {"l1": 1.0, "fisher": 0.5}, MIDDLE: {"l1": 0.0, "fisher": 2.0}}


def test_scores_are_a_weighted_mean_of_each_over_its_mean() -> None:
    _, graph, images, labels = small()
    data = [(images, labels)]
    l1, fisher = scores(graph, L1()), scores(graph, Fisher(), data)
    found = scores(graph, Blend(FACTORS), data)
    over = {
        path: [one / one.mean() for one in pair]
        for path, pair in {path: (l1[path], fisher[path]) for path in l1}.items()
    }
    np.testing.assert_allclose(found[STREAM], (over[STREAM][0] + 0.5 * over[STREAM][1]) / 1.5)
    np.testing.assert_allclose(found[MIDDLE], over[MIDDLE][1])


def test_what_is_infinite_stays_so_and_what_counts_nothing_is_not_asked() -> None:
    known = {"l1": np.array([1.0, 3.0]), "bn-gamma": np.array([np.inf, 2.0])}
    assert blended(known, {"l1": 1.0, "bn-gamma": 0.0}).tolist() == [0.5, 1.5]
    assert np.isinf(blended(known, {"l1": 1.0, "bn-gamma": 1.0})).tolist() == [True, False]


def test_it_looks_at_what_its_members_look_at() -> None:
    assert Blend(FACTORS).members == ["fisher", "l1"]
    assert Blend(FACTORS).needs == "labels"
    assert Blend({STREAM: {"l1": 1, "fisher": 0}}).needs == "weights"
    assert Blend({STREAM: {"l1": 1, "apoz": 0.1}}).needs == "inputs"


def test_it_chooses_channels() -> None:
    _, graph, images, labels = small()
    plan = fxprune.choose(graph, ratio=0.5, criterion=Blend(FACTORS), data=[(images, labels)])
    assert plan.criterion == "blend"
    by_l1 = fxprune.choose(graph, ratio=0.5, criterion=Blend({path: {"l1": 3.0} for path in FACTORS}))
    assert by_l1.indices == fxprune.choose(graph, ratio=0.5, criterion="l1").indices


def test_runs_of_members_are_told() -> None:
    _, graph, images, labels = small()
    blend = Blend({path: {"damage": 1.0} for path in FACTORS})
    told = []
    blend.comparing = lambda done, of: told.append((done, of))
    scores(graph, blend, [(images, labels)])
    assert told == [(one, 9) for one in range(9)]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.attention(x, x, x)[0].mean(1))
        return logits


def test_groups_have_keys_of_their_own() -> None:
    graph = fxprune.trace(Attending().eval(), torch.randn(2, 4, 8))
    for graphs in (graph, fxprune.passes.SplitAttention()(graph).graph_module, small()[1]):
        keys = [key_of(site) for site in channel_sites(graphs)]
        assert len(set(keys)) == len(keys)


def test_groups_of_one_layer_are_numbered() -> None:
    site = channel_sites(small()[1])[0]
    site.channels.groups = (site.group, type(site.group)(site.group.name, site.group.classes, site.group.free))
    second = type(site)(site.path, "", site.channels, site.channels.groups[1])
    assert (key_of(site), key_of(second)) == (STREAM, f"{STREAM}#2")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"a": {"l3": 1}}, "the blend of a has 'l3', which is no criterion; did you mean 'l2'"),
        ({"a": {"blend": 1}}, "the blend of a has 'blend', which is no criterion"),
        ({"a": {"l1": -1}}, "the factor of l1 of a is a number from 0; got -1"),
        ({"a": {"l1": math.nan}}, "the factor of l1 of a is a number from 0; got nan"),
        ({"a": {"l1": "1"}}, "the factor of l1 of a is a number from 0; got '1'"),
        ({"a": {"l1": 0}}, "the blend of a has no factor above 0"),
        ({"a": {}}, "the blend of a has no factor above 0"),
        (3, "Blend takes a mapping of .* for factors, got int 3"),
    ],
)
def test_wrong_factors_are_named(factors: Any, message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        Blend(factors)


def test_a_blend_for_another_network_is_refused() -> None:
    _, graph, images, labels = small()
    with pytest.raises(
        fxprune.FxpruneError, match="the blend says nothing of the channels of three: it was found for"
    ):
        RemoveChannels(ratio=0.5, criterion=Blend({STREAM: {"l1": 1}}), data=[(images, labels)])(graph)


def test_layers_are_refused() -> None:
    graph = fxprune.trace(TinyNet(), torch.randn(2, 3, 8, 8))
    with pytest.raises(
        fxprune.FxpruneError, match=r"criterion blend scores channels only, and .* is a conv: take half"
    ):
        fxprune.choose(graph, "convs", fxprune.Targets(macs=0.9), criterion=Blend({"a": {"l1": 1}}))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "blend.json"
    Blend(FACTORS, 0.75).save(file)
    assert Blend.load(file) == Blend(FACTORS, 0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no blend: "),
        ("[]", "is no blend: Blend.save writes one"),
        ('{"fxprune_blend": 1}', "is no blend: Blend.save writes one"),
        ('{"fxprune_blend": 2, "top1": null, "factors": {}}', "is a blend of another format"),
        ('{"fxprune_blend": 1, "top1": null, "factors": {"a": {"l1": -1}}}', "blend.json: the factor of l1 of a"),
        ('{"fxprune_blend": 1, "top1": null, "factors": [1]}', "blend.json: "),
        ('{"fxprune_blend": 1, "top1": "high", "factors": {"a": {"l1": 1}}}', "blend.json: "),
        ('{"fxprune_blend": 1, "top1": null, "factors": {"a": [1]}}', "blend.json: "),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "blend.json").write_text(text)
    with pytest.raises(fxprune.FxpruneError, match=message) as caught:
        Blend.load(tmp_path / "blend.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"cannot read .*blend.json: No such file"):
        Blend.load(tmp_path / "blend.json")


def test_a_file_is_plain_data(tmp_path: Path) -> None:
    Blend(FACTORS).save(tmp_path / "blend.json")
    content = json.loads((tmp_path / "blend.json").read_text())
    assert content == {"fxprune_blend": 1, "top1": None, "factors": FACTORS}
