"""Channels that are steered to zero: targets are met by exact zeros, whatever else has gates, and through files."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from channel_training import gated
from torch import fx

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs
from fxprune.gates.channel_gate import ChannelScale
from fxprune.passes.chains import FINISHING

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def trained(graph: fx.GraphModule, shrink: Any, steps: int, lr: float = 0.01) -> None:
    optimizer = torch.optim.SGD(fxprune.pruning.parameter_groups(graph, 5e-4), lr=lr, momentum=0.9)
    graph.train()
    for _ in range(steps):
        optimizer.zero_grad()
        graph(IMAGES).square().mean().backward()
        optimizer.step()
        shrink.step(lr)


def plain(graph: fx.GraphModule) -> fx.GraphModule:
    steps = [passes.RemoveLayers(threshold=0), *FINISHING["fold"], passes.RemoveChannels()]
    return fxprune.Pipeline(steps)(graph.eval()).graph_module


@pytest.mark.parametrize("what", ["channels", "branches,channels", "all"])
def test_the_target_is_met_by_zeros_that_can_be_removed(what: str) -> None:
    graph = gated(what)
    before = total_macs(graph)
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=20)
    trained(graph, shrink, 20)
    assert shrink.is_met
    assert shrink.left <= 0.5
    cut = plain(graph)
    assert total_macs(cut) / before == pytest.approx(shrink.left)
    torch.testing.assert_close(cut(IMAGES), graph(IMAGES), rtol=1e-9, atol=1e-9)
    if what == "channels":
        assert sum(map(len, shrink.closed_channels.values())) == sum(map(len, shrink.chunks.values())) > 0


def test_one_group_after_the_other_falls_and_the_others_rest() -> None:
    graph = gated()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=40)
    assert all(module.resting for module in shrink.channels.values())
    trained(graph, shrink, 12)
    falling = {path: module.effective_scales for path, module in shrink.channels.items() if not module.resting}
    assert len(falling) > 0
    for scales in falling.values():
        assert all(0 <= one <= 1 for one in scales.tolist())
    assert not any(module.gate.requires_grad for module in shrink.channels.values())


def test_it_goes_on_from_a_file() -> None:
    graph, again = gated(), gated(seed=5)
    targets = fxprune.Targets(macs=0.5)
    shrink = fxprune.SteeredL1(graph, targets=targets, meet_after=20, probe_inputs=(IMAGES,))
    trained(graph, shrink, 9)
    state = copy.deepcopy({"graph": graph.state_dict(), "shrink": shrink.state_dict()})
    again.load_state_dict(state["graph"])
    resumed = fxprune.SteeredL1(again, targets=targets, meet_after=20, probe_inputs=(IMAGES,))
    resumed.load_state_dict(state["shrink"])
    again.load_state_dict(state["graph"])
    for one in (shrink, resumed):
        for _ in range(11):
            one.step(0.01)
    assert resumed.order == shrink.order
    assert resumed.chunks == shrink.chunks
    assert resumed.closed_channels == shrink.closed_channels
    torch.testing.assert_close(again.eval()(IMAGES), graph.eval()(IMAGES))


def test_an_average_of_copies_has_the_same_zeros() -> None:
    graph = gated()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=20)
    average = torch.optim.swa_utils.AveragedModel(
        graph,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    for _ in range(22):
        trained(graph, shrink, 1)
        average.update_parameters(graph)
    copied = average.module
    assert isinstance(copied, fx.GraphModule)
    for ours, theirs in zip(fxprune.gates_of(graph), fxprune.gates_of(copied), strict=True):
        assert torch.equal(ours.scale == 0, theirs.scale == 0)
    assert total_macs(plain(copied)) == total_macs(plain(graph))


@pytest.mark.parametrize("targets", [fxprune.Targets(params=0.6), fxprune.Targets(memory=0.8)])
def test_other_targets(targets: fxprune.Targets) -> None:
    graph = gated()
    shrink = fxprune.SteeredL1(graph, targets=targets, meet_after=20)
    trained(graph, shrink, 20)
    assert shrink.is_met
    if targets.params is not None:
        assert shrink.params_left <= 0.6


def test_what_cannot_be_met_is_refused_with_what_can() -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"target_macs=0.01 cannot be met: without all that can go 0\.\d+"):
        fxprune.SteeredL1(gated(), targets=fxprune.Targets(macs=0.01), meet_after=20)


def test_a_fixed_strength_brings_channels_to_zero_and_closes_them() -> None:
    graph = gated()
    shrink = fxprune.ProximalL1(graph, 5.0)
    trained(graph, shrink, 60)
    shrink.close_zeros()
    assert shrink.closed_channels
    for path, places in shrink.closed_channels.items():
        assert len(places) <= shrink.channels[path].width - 2
    assert shrink.left < 1
    cut = plain(graph)
    torch.testing.assert_close(cut(IMAGES), graph(IMAGES), rtol=1e-9, atol=1e-9)


def test_closed_channels_stay_closed_and_read_as_zero() -> None:
    scale = ChannelScale(4, torch.ones(1))
    scale.close_classes([1])
    scale.shrink(0.25)
    assert scale().tolist() == [0.75, 0, 0.75, 0.75]
    assert scale.closed_classes.tolist() == [False, True, False, False]
    assert float(scale.penalty().detach()) == 2.25
    assert scale.effective_scale == pytest.approx(2.25 / 4)


def test_resting_gates_that_an_optimizer_moves_go_back() -> None:
    graph = gated()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.9), meet_after=1000)
    for module in shrink.channels.values():
        module.gate.requires_grad_(True)  # as in DistributedDataParallel
    optimizer = torch.optim.AdamW(graph.parameters(), lr=0.1, weight_decay=0.5)
    for step in range(3):
        for module in shrink.channels.values():
            module.gate.grad = torch.zeros_like(module.gate)  # of a parameter that takes no part
        optimizer.step()
        shrink.step()
        for path, module in shrink.channels.items():
            assert not module.resting or bool((module.gate == 1).all()), (step, path)


@pytest.mark.parametrize("what", ["channels", "branches,channels"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_as_the_original_does(copied: Any, what: str) -> None:
    graph = gated(what)
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=20, probe_inputs=(IMAGES,))
    trained(graph, shrink, 8)
    other, others = copied((graph, shrink))
    assert others.graph_module is other
    trained(graph, shrink, 14)
    trained(other, others, 14)
    assert others.is_met
    assert (others.order, others.chunks) == (shrink.order, shrink.chunks)
    torch.testing.assert_close(other.eval()(IMAGES), graph.eval()(IMAGES))


def test_what_is_compared_is_told_with_the_sizes_of_chunks() -> None:
    targets = fxprune.Targets(macs=0.5)
    assert fxprune.SteeredL1(gated(), targets=targets, meet_after=9).candidates == (
        "3 groups of channels (which close 1 to 2 channels at a time)"
    )
    both = fxprune.SteeredL1(
        gated("branches,channels"), targets=targets, meet_after=9, plan=fxprune.Plan(multiple_of=2)
    )
    assert both.candidates == "2 layers and 3 groups of channels (which close 2 channels at a time)"
