"""Plans and gates: what training closed is a plan that cuts the same, and a plan is trained to zero in its order."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from channel_training import Blocks
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.planned_sites import PlannedSite
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, LoadError
from fxprune.passes.chains import FINISHING
from fxprune.pruning.closing import closing_of, plan_of
from fxprune.structures.gated_layers import Gate

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
HALF = fxprune.Targets(macs=0.5)


def traced_blocks(seed: int = 0) -> fx.GraphModule:
    torch.manual_seed(seed)
    return fxprune.trace(Blocks().double().eval(), IMAGES)


def trained(graph: fx.GraphModule, shrink: Any, steps: int) -> None:
    optimizer = torch.optim.SGD(fxprune.pruning.parameter_groups(graph, 5e-4), lr=0.01, momentum=0.9)
    graph.train()
    for _ in range(steps):
        optimizer.zero_grad()
        graph(IMAGES).square().mean().backward()
        optimizer.step()
        shrink.step(0.01)
        shrink.close_zeros()
    graph.eval()


def costs(graph: fx.GraphModule) -> tuple[int, int]:
    return total_macs(graph), total_params(graph)


def plain(graph: fx.GraphModule) -> fx.GraphModule:
    steps = [passes.RemoveLayers(threshold=0), *FINISHING["keep"], passes.RemoveChannels()]
    return fxprune.Pipeline(steps)(graph).graph_module


@pytest.mark.parametrize("what", ["channels", "convs", "branches,channels", "all"])
def test_what_training_closed_is_a_plan_that_cuts_the_same(what: str, tmp_path: Path) -> None:
    traced = traced_blocks()
    gated = fxprune.insert_scales(traced, what=what).graph_module
    shrink = fxprune.SteeredL1(gated, targets=HALF if what != "convs" else fxprune.Targets(macs=0.7), meet_after=12)
    trained(gated, shrink, 14)
    plan = plan_of(traced, gated, shrink.closed_in_turn, shrink.criterion.name, shrink.targets)
    plan.save(tmp_path / "plan.json")
    cut = fxprune.PruningPlan.load(tmp_path / "plan.json").apply(traced_blocks(1)).graph_module
    assert costs(cut) == costs(plain(gated))
    assert total_macs(cut) < 0.71 * total_macs(traced)


@pytest.mark.parametrize("what", ["channels", "all"])
def test_a_fixed_strength_leaves_a_plan_too(what: str) -> None:
    traced = traced_blocks()
    gated = fxprune.insert_scales(traced, what=what).graph_module
    shrink = fxprune.ProximalL1(gated, {path: 30.0 for path in fxprune.ProximalL1(gated).channels if "one" in path})
    trained(gated, shrink, 8)
    plan = plan_of(traced, gated, shrink.closed_in_turn)
    assert plan.indices
    assert costs(plan.apply(traced_blocks()).graph_module) == costs(plain(gated))


@pytest.mark.parametrize("what", ["channels", "branches,channels", "convs"])
def test_a_plan_is_trained_to_zero_and_nothing_else(what: str) -> None:
    traced = traced_blocks()
    plan = fxprune.choose(traced, what, fxprune.Targets(macs=0.7), criterion="l1")
    gated = fxprune.insert_scales(traced, what=what).graph_module
    shrink = fxprune.SteeredL1(gated, closing=closing_of(plan, traced, gated), meet_after=12)
    assert not shrink.is_met
    trained(gated, shrink, 6)
    assert len(shrink.order) > 0
    assert not shrink.is_met
    trained(gated, shrink, 6)
    assert shrink.is_met
    cut = plain(gated)
    assert costs(cut) == costs(plan.apply(traced).graph_module)
    torch.testing.assert_close(cut(IMAGES), gated(IMAGES), rtol=1e-9, atol=1e-9)
    again = plan_of(traced, gated, shrink.closed_in_turn)
    assert {path: sorted(places) for path, places in again.indices.items()} == {
        path: sorted(places) for path, places in plan.indices.items()
    }


def test_the_order_is_the_plans_and_chunks_are_those_of_the_schedule() -> None:
    traced = traced_blocks()
    sites = [
        PlannedSite("channels", "two.first", 16, (5, 1, 9)),
        PlannedSite("branch", "one [first ... norm2]", 1, (0,)),
        PlannedSite("channels", "stem", 16, (2,)),
    ]
    plan = replace(fxprune.choose(traced, targets=HALF), sites=sites)
    gated = fxprune.insert_scales(traced, what="branches,channels").graph_module
    shrink = fxprune.SteeredL1(gated, closing=closing_of(plan, traced, gated), meet_after=12)
    trained(gated, shrink, 12)
    assert shrink.order == ["two.first_channels[0]", "two.first_channels[1]", "one.branch_scale", "stem_channels[0]"]
    assert shrink.chunks["two.first_channels[0]"] == [5, 1]
    told = [(one.kind, one.path, one.indices) for one in plan_of(traced, gated, shrink.closed_in_turn).sites]
    assert told == [
        ("channels", "two.first", (1, 5)),
        ("channels", "two.first", (9,)),
        ("branch", "one [first ... norm2]", (0,)),
        ("channels", "stem", (2,)),
    ]


def test_it_goes_on_from_a_file() -> None:
    traced = traced_blocks()
    plan = fxprune.choose(traced, "branches,channels", HALF)

    def begun() -> tuple[fx.GraphModule, fxprune.SteeredL1]:
        gated = fxprune.insert_scales(copy.deepcopy(traced), what="branches,channels").graph_module
        return gated, fxprune.SteeredL1(gated, closing=closing_of(plan, traced, gated), meet_after=12)

    gated, shrink = begun()
    trained(gated, shrink, 5)
    other, resumed = begun()
    other.load_state_dict(gated.state_dict())
    resumed.load_state_dict(copy.deepcopy(shrink.state_dict()))
    trained(other, resumed, 7)
    assert resumed.is_met
    assert costs(plain(other)) == costs(plan.apply(traced).graph_module)


def test_what_makes_no_sense_is_refused_in_a_line() -> None:
    traced = traced_blocks()
    plan = fxprune.choose(traced, "branches,channels", HALF)
    gated = fxprune.insert_scales(traced, what="all").graph_module

    def refused(message: str, kind: type[Exception] = FxpruneError, **changes: Any) -> None:
        with pytest.raises(kind, match=message):
            closing_of(replace(plan, **changes), traced, gated)

    site = PlannedSite("channels", "stem", 16, (0,))
    refused("its layer 1 is conv Conv2d", LoadError, fingerprint=["conv Conv2d 1x1"])
    refused("says that stem has 8 channels; it has 16", LoadError, sites=[replace(site, width=8)])
    refused("has nothing that could close", sites=[])
    refused("is not there, or has no gate; did you mean", sites=[PlannedSite("conv", "two.firs", 1, (0,))])
    refused("channel 0 of head in the plan cannot go", sites=[PlannedSite("channels", "head", 4, (0,))])
    refused("two stay at least", sites=[replace(site, indices=tuple(range(15)))])
    refused("conv two.first and channels", sites=[site, PlannedSite("conv", "two.first", 1, (0,))])
    refused("cannot be trained to zero", groups="whole")
    closing = closing_of(plan, traced, gated)
    with pytest.raises(FxpruneError, match="leave one of the two out"):
        fxprune.SteeredL1(gated, closing=closing, targets=HALF, meet_after=3)


def test_layers_inside_a_branch_go_with_it() -> None:
    traced = traced_blocks()
    gated = fxprune.insert_scales(traced).graph_module
    gates = [gate for gate in fxprune.gates_of(gated) if gate.path.startswith("two")]
    assert all(isinstance(gate, Gate) for gate in gates)
    assert [one.path for one in plan_of(traced, gated, gates).sites] == ["two [first ... norm2]"]


def test_channels_of_regions_are_named_by_their_paths() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

        def forward(self, x: Any) -> Any:
            while bool(x.abs().max() > 4):
                x = x / 2
            return self.net(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1), Looping()).double()
    traced = fxprune.trace(model.eval(), IMAGES)
    plan = fxprune.choose(traced, targets=HALF)
    assert plan.indices.keys() == {"0", "3.net.0"}
    gated = fxprune.insert_scales(traced, what="channels").graph_module
    shrink = fxprune.SteeredL1(gated, closing=closing_of(plan, traced, gated), meet_after=6)
    trained(gated, shrink, 6)
    again = plan_of(traced, gated, shrink.closed_in_turn)
    assert {path: sorted(places) for path, places in again.indices.items()} == plan.indices
    assert costs(plain(gated)) == costs(plan.apply(traced).graph_module)
