"""Targets in time without training: what was measured corrects what is chosen next, and the best try is kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from channel_nets import NETS
from fake_latency import FakeLatency, FakeTable, plain
from torch import fx, nn

import fxprune
from fxprune import SteeredL1, Targets, choose
from fxprune.choosing.plan import Plan
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.errors import FxpruneError, TargetError
from fxprune.passes import RemoveChannels
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.latency_model import LatencyModel
from fxprune.pruning.pruning_plan import PruningPlan
from fxprune.pruning.surgery import Surgery
from fxprune.pruning.timed_choice import timed_choice
from fxprune.pruning.untrained.no_train import choose_untrained, prune_untrained
from fxprune.training.cifar_resnet import CifarResNet

pytestmark = pytest.mark.filterwarnings("ignore:a forward pass takes:fxprune.errors.FxpruneWarning")


def resnet(seed: int = 0) -> fx.GraphModule:
    torch.manual_seed(seed)
    return fxprune.trace(CifarResNet(20).eval(), torch.randn(2, 3, 8, 8)).eval()


@pytest.mark.parametrize("what", ["channels", "branches", "branches,channels", "all"])
@pytest.mark.parametrize("off", [0.85, 1.15])
def test_the_network_is_as_fast_as_asked_by_the_clock(what: str, off: float) -> None:
    graph, latency = resnet(), FakeLatency(off=off)

    def chosen(targets: Targets, model: LatencyModel) -> PruningPlan:
        return choose(graph, what, targets, latency=model, scope="global")

    whole = off * latency.milliseconds(plain(graph))
    plan, timed = timed_choice(graph, Targets(milliseconds=0.7 * whole), latency, chosen)
    assert timed.unpruned.milliseconds == pytest.approx(whole)
    assert 0.85 <= timed.best.measured / timed.limit <= 1.02
    assert timed.tries[0].measured == pytest.approx(off * timed.tries[0].predicted)
    assert len(timed.tries) <= 3
    cut = plan.apply(graph, norms="fold", verify=False).graph_module
    assert latency.measured(cut).milliseconds == pytest.approx(timed.best.measured)


def test_a_share_is_of_what_is_measured_unpruned_at_the_pace_of_that_moment() -> None:
    graph = resnet()
    found = []
    for pace in ((), (1.0, 1.3, 0.8, 1.2)):
        latency = FakeLatency(off=1.15, pace=pace)
        plan, timed = timed_choice(
            graph, Targets(latency=0.7), latency, lambda targets, model: choose(graph, targets=targets, latency=model)
        )
        assert timed.limit == pytest.approx(0.7 * 1.15 * latency.milliseconds(plain(graph)))
        assert [one.measured for one in timed.tries] == [pytest.approx(one.predicted) for one in timed.tries]
        found.append(plan.sites)
    assert found[0] == found[1]


def test_who_asked_for_a_share_is_told_the_share() -> None:
    graph = resnet()
    with pytest.raises(TargetError, match=r"target_latency=0.01 cannot be met: .* ask for at least 0\.\d+$"):
        timed_choice(
            graph,
            Targets(latency=0.01),
            FakeLatency(off=1.15),
            lambda targets, model: choose(graph, "all", targets, latency=model),
        )


@pytest.mark.parametrize(
    "name",
    [
        "Depthwise",
        "Grouped",
        "CrossStagePartial",
        "PaddedShortcut",
        "ConvNextBlock",
        "Attention",
        "FusedAttention",
        "NonLocal",
    ],
)
def test_channels_of_all_structures_are_as_fast_as_predicted(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    graph, latency = fxprune.trace(model.eval(), inputs), FakeLatency(len(inputs[0]))
    whole = latency.milliseconds(plain(graph))
    plan = choose(graph, targets=Targets(milliseconds=0.9 * whole), latency=latency, scope="global")
    found = latency.milliseconds(plan.apply(graph, norms="fold", verify=False).graph_module)
    assert 0.7 * whole <= found <= 0.9 * whole


def straight() -> fx.GraphModule:
    """Return convs in a row, each with a group of its own."""
    torch.manual_seed(0)
    widths = (3, 32, 48, 64, 5)
    convs = [nn.Conv2d(ins, outs, 3, padding=1) for ins, outs in pairwise(widths)]
    return fxprune.trace(nn.Sequential(*convs).eval(), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(("multiple", "step"), [(1, 4), (3, 3), (2, 4), (8, 8)])
def test_groups_lose_channels_in_steps_that_save_time(scope: Any, multiple: int, step: int) -> None:
    graph, latency = straight(), FakeLatency(stairs=4)
    plan = choose(graph, targets=Targets(latency=0.9), latency=latency, scope=scope, multiple_of=multiple)
    left = [one.width - len(one.indices) for one in plan.sites]
    assert left
    assert all(width % step == 0 for width in left)


def test_without_stairs_any_number_goes() -> None:
    plan = choose(straight(), targets=Targets(latency=0.9), latency=FakeLatency(), scope="global")
    assert any((one.width - len(one.indices)) % 2 for one in plan.sites)


def test_chunks_close_in_steps_that_save_time() -> None:
    graph = insert_scales(straight(), what="channels", verify=False).graph_module
    targets = Targets(latency=0.9)
    shrink = SteeredL1(graph, targets=targets, meet_after=4, latency=FakeLatency(stairs=4), plan=Plan(chunk=0.01))
    for _ in range(4):
        shrink.step(0.1)
    assert {len(places) for places in shrink.chunks.values()} == {4}


def test_without_training_a_time_is_met_and_told() -> None:
    graph, latency = resnet(), FakeLatency(off=1.15)
    images = [torch.randn(8, 3, 8, 8) for _ in range(2)]
    surgery = Surgery(what="branches", verify=False)
    found = prune_untrained(graph, images, Targets(latency=0.7), surgery=surgery, latency=latency)
    assert found.timed is not None
    assert found.timed.best.measured <= 1.02 * found.timed.limit
    measured = latency.measured(found.result.graph_module).milliseconds
    assert measured == pytest.approx(found.timed.best.measured)
    assert "asked for, unpruned" in str(found)
    plan = choose_untrained(graph, images, Targets(latency=0.7), surgery=surgery, latency=latency)
    assert plan.sites == found.plan.sites
    assert prune_untrained(graph, images, plan, surgery=surgery).timed is None


def test_what_is_measured_of_damages_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxprune.pruning.untrained import repaired_damage

    asked: list[str] = []
    known = repaired_damage._Damages._measured

    def counted(self: Any, sites: Any) -> float:
        asked.append(str(sites))
        return known(self, sites)

    monkeypatch.setattr(repaired_damage._Damages, "_measured", counted)
    graph, images = resnet(), [torch.randn(8, 3, 8, 8) for _ in range(2)]
    latency = FakeLatency(off=1.4)
    surgery = Surgery(what="branches", verify=False)
    found = prune_untrained(graph, images, Targets(milliseconds=4.0), surgery=surgery, latency=latency)
    assert found.timed is not None
    assert len(found.timed.tries) > 1
    assert len(asked) == len(set(asked))


def test_prune_measures_a_model_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = FakeLatency(off=1.1)
    monkeypatch.setattr(LatencyModel, "measure", lambda *given, **options: latency)
    torch.manual_seed(0)
    model, images = CifarResNet(20), torch.randn(8, 3, 8, 8)

    def fit(sparse: fx.GraphModule) -> None:
        optimizer = torch.optim.SGD(sparse.parameters(), lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            sparse(images).square().mean().backward()
            optimizer.step()

    surgery = Surgery(what="branches", verify=False)
    result = fxprune.prune(model, images, fit, targets=Targets(latency=0.7), meet_after=5, surgery=surgery)
    whole = latency.measured(plain(fxprune.trace(model.eval(), images))).milliseconds
    assert latency.measured(result.graph_module).milliseconds <= 0.7 * whole * 1.001


def test_the_pass_takes_a_model_of_times() -> None:
    graph, latency = straight(), FakeLatency()
    found = RemoveChannels(target_latency=0.8, scope="global", latency=latency)(graph).graph_module
    assert latency.milliseconds(found) <= 0.8 * latency.milliseconds(graph)
    with pytest.raises(TargetError, match=r"target_latency=0.01 cannot be met: without all 138 channels that may go"):
        RemoveChannels(target_latency=0.01, latency=latency)(graph)
    with pytest.raises(FxpruneError, match=r"remove-channels needs a model of times .* fxprune prune --target-ms"):
        RemoveChannels(target_ms=4.0)(graph)


def test_bad_input() -> None:
    graph = resnet()
    with pytest.raises(
        FxpruneError, match=r"choose needs a model of times for at most 50% of the time: give latency="
    ):
        choose(graph, targets=Targets(latency=0.5))
    with pytest.raises(TargetError, match=r"target_ms=0.1 cannot be met: without all .* ask for at least .* ms"):
        choose(graph, "all", Targets(milliseconds=0.1), latency=FakeLatency())
    with pytest.raises(FxpruneError, match=r"conv1: no op like it was measured; measure"):
        choose(graph, targets=Targets(latency=0.5), latency=LatencyTable(FakeTable().conditions))


def test_the_best_of_what_was_tried_is_kept_where_nothing_fits() -> None:
    graph, latency = resnet(), FakeLatency(off=1.15)

    def chosen(targets: Targets, model: LatencyModel) -> PruningPlan:
        return choose(graph, "branches", targets, latency=model)

    _, timed = timed_choice(graph, Targets(latency=0.72), latency, chosen)
    met = [one.measured for one in timed.tries if one.measured <= 1.02 * timed.limit]
    assert timed.best.measured == max(met)
