"""What blends come to: the cut is that of the pass, norms are measured anew, choices are judged once."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from blend_nets import L1, NORMED, PLAIN, POOL, judged, pictured
from torch import nn

import fxprune
from fxprune.choosing.channel_scores import channel_scores
from fxprune.choosing.criterion_blend import Blend
from fxprune.choosing.samples import Batch, Samples
from fxprune.errors import TargetError
from fxprune.passes import MeasureNorms, RemoveChannels
from fxprune.pruning.blend import judge as blend_judge
from fxprune.pruning.blend.judge import Judge, top1

pytestmark = pytest.mark.filterwarnings("ignore:a blend is chosen by top-1 on:fxprune.errors.FxpruneWarning")
STEPS = (
    RemoveChannels(ratio=0.5),
    RemoveChannels(target_macs=0.6),
    RemoveChannels(target_macs=0.6, scope="global", keep=["two"]),
    RemoveChannels(ratio=0.5, multiple_of=2, least=3),
)


@pytest.mark.parametrize("step", STEPS, ids=range(len(STEPS)))
def test_the_choice_is_that_of_the_pass(step: RemoveChannels) -> None:
    judge = judged(step)
    gone = judge.choice(L1)
    ours, theirs = judge.network(gone), step(judge.graph_module).graph_module
    shapes = [{name: one.shape for name, one in graph.state_dict().items()} for graph in (ours, theirs)]
    assert shapes[0] == shapes[1]
    torch.testing.assert_close(ours.get_parameter("two.weight"), theirs.get_parameter("two.weight"))


def test_scores_are_those_of_the_images_that_are_seen() -> None:
    judge = judged()
    expected = channel_scores(judge.graph_module, "taylor", Samples(judge.images.seen))[""]
    np.testing.assert_allclose(judge.scores[NORMED]["taylor"], expected[np.isfinite(expected)][:10])
    assert judge.pool == POOL
    assert set(judge.clusters) == {NORMED, PLAIN}


def test_bn_gamma_does_not_rank_what_has_no_norm() -> None:
    clusters = judged().clusters
    assert "bn-gamma" in clusters[NORMED].names
    assert "bn-gamma" not in clusters[PLAIN].names


def test_the_input_graph_stays_as_it_was() -> None:
    judge = judged()
    before = copy.deepcopy(judge.graph_module.state_dict())
    judge.top1(L1)
    after = judge.graph_module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not judge.graph_module.training


def test_equal_choices_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, runs = judged(), []

    def count(*given: Any) -> float:
        runs.append(given)
        return 0.5

    monkeypatch.setattr(blend_judge, "top1", count)
    assert judge.top1(L1) == judge.top1({path: {"l1": 0.3} for path in L1}) == 0.5
    assert len(runs) == 1
    judge.top1({**L1, NORMED: {"bn-gamma": 1.0}})
    assert len(runs) == 2


def test_top1_is_of_the_cut_network_with_norms_measured_anew() -> None:
    judge = judged()
    cut = RemoveChannels(ratio=0.5)(judge.graph_module).graph_module
    network = MeasureNorms(data=judge.images.seen)(cut).graph_module
    with torch.no_grad():
        right = [(network(*one.inputs).argmax(1) == one.labels).double() for one in judge.images.held_out]
    assert judge.top1(L1) == pytest.approx(float(torch.cat(right).mean()))
    with torch.no_grad():
        read = torch.cat([network.get_submodule("one")(*one.inputs) for one in judge.images.seen])
    torch.testing.assert_close(network.get_buffer("norm.running_mean"), read.mean((0, 2, 3)))


def test_a_network_in_train_mode_is_judged_alike() -> None:
    graph, data = pictured()
    expected = judged().top1(L1)
    graph.train()
    assert Judge.of(graph, data, RemoveChannels(ratio=0.5), pool=POOL).top1(L1) == expected
    assert graph.training


def test_what_the_judge_scores_is_what_a_blend_scores() -> None:
    judge = judged()
    factors = {NORMED: {"l1": 1.0, "taylor": 0.5}, PLAIN: {"taylor": 1.0}}
    plans = [
        fxprune.choose(judge.graph_module, ratio=0.5, criterion=one, data=judge.images.seen)
        for one in (Blend(factors), judge.criterion(factors))
    ]
    assert plans[0].indices == plans[1].indices == judge.choice(factors)


def test_the_usual_pool_is_all_that_there_is() -> None:
    graph, data = pictured()
    assert Judge.of(graph, data, RemoveChannels(ratio=0.5)).pool == blend_judge.POOL
    plain = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    plain_graph = fxprune.trace(plain.eval(), data[0][0])
    found = Judge.of(plain_graph, data, RemoveChannels(ratio=0.5)).pool
    assert found == tuple(one for one in blend_judge.POOL if one != "bn-gamma")


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (["l1"], "a blend is of two criteria at least, and the pool has l1 alone"),
        (["l1", "l1"], "a blend is of two criteria at least, and the pool has l1 alone"),
        (["l1", "l3"], "unknown criterion 'l3'; did you mean 'l2'"),
        (["l1", "blend"], "the pool of a blend has blend itself"),
    ],
)
def test_wrong_pools_are_named(pool: list[str], message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        judged(pool=pool)


def test_wrong_steps_are_named() -> None:
    with pytest.raises(fxprune.FxpruneError, match="a blend is sought for a ratio or for targets: how much"):
        judged(RemoveChannels())
    with pytest.raises(fxprune.FxpruneError, match="criterion blend takes no aggregate; got aggregate='mean'"):
        judged(RemoveChannels(ratio=0.5, aggregate="mean"))
    with pytest.raises(TargetError, match=r"target_macs=0\.01 cannot be met"):
        judged(RemoveChannels(target_macs=0.01)).top1(L1)


def test_nan_names_the_layer() -> None:
    graph, data = pictured()
    graph.get_parameter("two.weight").data[0, 0, 0, 0] = torch.nan
    with pytest.raises(fxprune.FxpruneError, match="the weights of two hold NaN"):
        Judge.of(graph, data, RemoveChannels(ratio=0.5), pool=POOL)


def test_what_returns_no_logits_is_refused() -> None:
    network = fxprune.trace(nn.Conv2d(2, 4, 1).eval(), torch.randn(2, 2, 5, 5))
    with pytest.raises(fxprune.FxpruneError, match="chooses by top-1, and the network returns no logits"):
        top1(network, [Batch((torch.randn(3, 2, 5, 5),), torch.zeros(3, dtype=torch.long))])


def test_what_cannot_lose_channels_is_refused() -> None:
    graph = fxprune.trace(nn.Linear(4, 3).eval(), torch.randn(2, 4))
    data = [(torch.randn(40, 4), torch.zeros(40, dtype=torch.long))]
    with pytest.raises(fxprune.FxpruneError, match="no channel can go"):
        Judge.of(graph, data, RemoveChannels(ratio=0.5), pool=POOL)
