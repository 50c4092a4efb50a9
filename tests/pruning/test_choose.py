"""What goes of a network, as a plan."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import fx

import fxprune
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneError, FxpruneWarning, TargetError
from fxprune.training.cifar_resnet import CifarResNet


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(CifarResNet().eval(), torch.randn(2, 3, 32, 32))


def test_a_share_of_each_group(traced: fx.GraphModule) -> None:
    plan = fxprune.choose(traced, ratio=0.25, criterion="l2", multiple_of=4)
    assert {len(one.indices) / one.width for one in plan.sites} == {0.25}
    assert plan.criterion == "l2"
    assert all(len(one.scores) == len(one.indices) for one in plan.sites)
    assert plan.targets.is_empty


def test_what_the_user_should_know_is_warned_of(traced: fx.GraphModule) -> None:
    with pytest.warns(FxpruneWarning, match="channels were compared on the graph's 2 example inputs"):
        fxprune.choose(traced, ratio=0.25, criterion="apoz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = [(torch.randn(4, 3, 32, 32), torch.randint(10, (4,)))]
        assert fxprune.choose(traced, ratio=0.25, criterion="taylor", data=data).criterion == "taylor"


def test_the_graph_stays(traced: fx.GraphModule) -> None:
    before = total_macs(traced), traced.code
    fxprune.choose(traced, "channels", fxprune.Targets(memory=0.8))
    assert (total_macs(traced), traced.code) == before


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("channels", {}, "choose takes targets, or a ratio of channels: how much is to go"),
        ("channel", {"ratio": 0.5}, "what names some of convs, branches, channels, or all; got 'channel'; did you"),
        ("channels", {"ratios": 0.5}, "choose has no option 'ratios'; did you mean 'ratio'"),
        ("channels", {"target_macs": 0.5}, "choose has no option 'target_macs'"),
        ("channels", {"ratio": 2.0}, "ratio is a share above 0 and below 1"),
        ("channels", {"ratio": 0.5, "keep": ["layr1"]}, "keep has 'layr1', which matches no module"),
        ("channels", {"ratio": 0.5, "criterion": "taylor"}, "criterion taylor needs labels"),
    ],
)
def test_bad_options(traced: fx.GraphModule, what: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneError, match=message):
        fxprune.choose(traced, what, **options)


def test_a_target_that_cannot_be_met(traced: fx.GraphModule) -> None:
    with pytest.raises(TargetError, match=r"target_macs=0.001 cannot be met: .* ask for at least"):
        fxprune.choose(traced, targets=fxprune.Targets(macs=0.001))
