"""From single removals to targets: the lines between what was measured, and what is chosen by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import fx

import fxprune
from fxprune.choosing.keeping import Kept
from fxprune.choosing.samples import Samples
from fxprune.pruning.sensitivity.curve import Curve
from fxprune.pruning.sensitivity.single_removals import Removals, SingleRemoval
from fxprune.structures.channels.groups import Channels
from fxprune.training.cifar_resnet import CifarResNet


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(CifarResNet(depth=8).eval(), torch.randn(2, 3, 12, 12))


def removals(graph: fx.GraphModule, channels: Channels, *what: str) -> list[SingleRemoval]:
    found = Removals(graph, what, Kept(), channels)
    groups = found.channels("l1", Samples(()), (0.25, 0.5, 0.75)) if "channels" in what else ()
    return [*found.layers(), *groups]


def test_what_is_missed_least_for_its_macs_goes(traced: fx.GraphModule) -> None:
    channels = Channels(traced)
    branches = removals(traced, channels, "branches")
    assert len(branches) > 0
    missed = [(one, 0.1) for one in branches]
    chosen = Curve(traced, channels, missed).at(0.9, ["branches"])
    assert chosen.plan is not None
    assert chosen.plan.criterion == "sensitivity"
    assert chosen.foretold == pytest.approx(0.1 * len(chosen.plan.sites))


def test_channels_go_where_they_are_missed_least(traced: fx.GraphModule) -> None:
    channels = Channels(traced)
    found = removals(traced, channels, "channels")
    cheap = "layer2.0.conv1"
    missed = [(one, one.goes / one.width * (0.01 if one.path == cheap else 1.0)) for one in found]
    chosen = Curve(traced, channels, missed).at(0.9, ["channels"])
    assert chosen.plan is not None
    assert set(chosen.plan.indices) == {cheap}
    gone = len(chosen.plan.indices[cheap])
    assert chosen.foretold == pytest.approx(0.01 * gone / 32)


def test_between_shares_it_is_on_straight_lines(traced: fx.GraphModule) -> None:
    channels = Channels(traced)
    found = [one for one in removals(traced, channels, "channels") if one.path == "layer3.0.conv1"]
    assert [one.goes for one in found] == [16, 32, 48]
    curve = Curve(traced, channels, list(zip(found, (0.1, 0.6, 0.7), strict=True)))
    site = replace(found[0].planned[0], indices=tuple(_first(channels, found[0], 24)), scores=())
    plan = fxprune.PruningPlan([site])
    assert curve.foretold(plan) == pytest.approx(0.35)
    scores = curve._lines[found[0].order[0]].scores()
    assert np.isinf(scores[48:]).all()
    assert (np.diff(scores[:48]) > 0).all()
    assert scores[0] == pytest.approx(0.1 / 16, rel=1e-3)
    assert scores[40] == pytest.approx(0.6 / 32, rel=1e-3)  # below 0.6 at 32, on the line from 16 to 48


def _first(channels: Channels, one: SingleRemoval, count: int) -> list[int]:
    outputs = channels.outputs[one.path].tolist()
    return [outputs.index(each) for each in one.order[:count]]


def test_what_cannot_be_met_says_what_can(traced: fx.GraphModule) -> None:
    channels = Channels(traced)
    found = removals(traced, channels, "channels")
    chosen = Curve(traced, channels, [(one, 0.5) for one in found]).at(0.01, ["channels"])
    assert chosen.plan is None
    assert "target_macs=0.01 cannot be met" in chosen.why
    assert "ask for at least" in chosen.why
