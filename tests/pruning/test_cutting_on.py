"""Cutting while it shrinks: the next steps are those of the uncut graph, and all that is said is of that graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from channel_training import gated
from together import of_two_processes
from torch import fx, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneValueError, LoadError
from fxprune.passes import RemoveChannels, RemoveLayers
from fxprune.pruning.closing import Closing, plan_of
from fxprune.pruning.own_loops import parameter_groups
from fxprune.structures.gated_layers import gates_of

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "plain": lambda p: torch.optim.SGD(p, lr=0.01, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
}


def steered(graph: fx.GraphModule, macs: float = 0.4) -> Any:
    return fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=macs), meet_after=20, probe_inputs=(IMAGES,))


def trained(graph: fx.GraphModule, optimizer: torch.optim.Optimizer, shrink: Any, steps: int = 1) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = graph(IMAGES).square().mean()
        loss.backward()
        optimizer.step()
        shrink.step(0.01)
    return float(loss.detach())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_after_two_cuts_are_those_of_the_uncut_graph(name: str) -> None:
    losses: list[list[float]] = []
    for cuts in (False, True):
        graph = gated().train()
        shrink, optimizer = steered(graph), OPTIMIZERS[name](parameter_groups(graph, 5e-4))
        losses.append([])
        for step in range(24):
            losses[-1].append(trained(graph, optimizer, shrink))
            if cuts and step in (9, 16):
                before = sum(one.numel() for one in graph.parameters())
                graph, optimizer = shrink.cut(optimizer)
                assert sum(one.numel() for one in graph.parameters()) < before
                assert graph is shrink.graph_module
        assert shrink.is_met
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


@pytest.mark.parametrize("what", ["branches,channels", "convs,channels", "all", "branches"])
def test_the_next_step_is_that_of_the_uncut_graph_with_all_kinds_of_gates(what: str) -> None:
    graph = gated(what).train()
    shrink, optimizer = steered(graph, 0.5), OPTIMIZERS["nesterov"](parameter_groups(graph, 5e-4))
    trained(graph, optimizer, shrink, 14)
    whole, other, old = copy.deepcopy((graph, shrink, optimizer.state_dict()))
    again = OPTIMIZERS["nesterov"](parameter_groups(whole, 5e-4))
    again.load_state_dict(old)
    sparse, following = shrink.cut(optimizer)
    assert total_macs(sparse) < total_macs(graph)
    uncut = [trained(whole, again, other) for _ in range(3)]
    assert [trained(sparse, following, shrink) for _ in range(3)] == pytest.approx(uncut, rel=1e-9)
    torch.testing.assert_close(sparse.eval()(IMAGES), whole.eval()(IMAGES), rtol=1e-9, atol=1e-9)


def test_a_plan_may_have_a_conv_of_a_branch_that_was_cut() -> None:
    told = []
    for cuts in ((), range(24)):
        graph = gated("all").train()
        branch = next(one.path for one in gates_of(graph) if one.kind == "branch" and one.path.startswith("two"))
        closing = Closing(((branch, ()), ("one.first_channels", (0, 1, 2, 3, 4, 5)), ("two.second", ())))
        in_turn = fxprune.Plan(window=0.5)
        shrink: Any = fxprune.SteeredL1(graph, closing=closing, meet_after=20, plan=in_turn)
        optimizer = OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
        for step in range(24):
            loss = trained(graph, optimizer, shrink)
            if step in cuts:
                graph, optimizer = shrink.cut(optimizer)
        assert shrink.is_met
        told.append((shrink.closed, shrink.closed_channels, shrink.left, round(loss, 9)))
    assert told[0] == told[1]


def test_a_fixed_strength_goes_on_after_a_cut() -> None:
    outputs = []
    for cuts in (False, True):
        graph = gated().train()
        shrink: Any = fxprune.ProximalL1(graph, 5.0)
        optimizer = OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
        for _ in range(20):
            trained(graph, optimizer, shrink, 3)
            shrink.close_zeros()
            if cuts:
                graph, optimizer = shrink.cut(optimizer)
        outputs.append((graph.eval()(IMAGES), shrink.closed_channels, shrink.left, shrink.sites_left))
    assert outputs[0][1:] == outputs[1][1:]
    assert outputs[0][1]
    torch.testing.assert_close(outputs[1][0], outputs[0][0], rtol=1e-9, atol=1e-9)


def test_all_that_is_told_is_of_the_uncut_graph() -> None:
    told, macs = [], []
    for cuts in (False, True):
        traced, graph = fxprune.trace(_plain(), IMAGES), gated().train()
        shrink, optimizer = steered(graph), OPTIMIZERS["nesterov"](parameter_groups(graph, 5e-4))
        sparse = graph
        for step in range(22):
            trained(sparse, optimizer, shrink)
            if cuts and step in (8, 15, 21):
                sparse, optimizer = shrink.cut(optimizer)
        assert shrink.whole is graph
        plan = plan_of(traced, shrink.whole, shrink.closed_in_turn)
        told.append((shrink.left, shrink.params_left, shrink.sites_left, shrink.order, shrink.chunks, plan.to_json()))
        plain = fxprune.Pipeline([RemoveLayers(threshold=0), *fxprune.AFTER_TRAINING, RemoveChannels()])
        macs.append(total_macs(plain(sparse.eval()).graph_module))
    assert told[0] == told[1]
    assert macs[0] == macs[1]
    assert told[0][0] <= 0.4


def _plain() -> nn.Module:
    from channel_training import Blocks

    torch.manual_seed(0)
    return Blocks().double().eval()


def test_the_graph_and_the_optimizer_before_stay_as_they_were() -> None:
    graph = gated().train()
    shrink, optimizer = steered(graph), OPTIMIZERS["adam"](parameter_groups(graph, 5e-4))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    trained(graph, optimizer, shrink, 12)
    schedule.step()
    held = copy.deepcopy(optimizer.state_dict())
    keys = {key: tuple(one.shape) for key, one in graph.state_dict().items()}
    sparse, follows = shrink.cut(optimizer)
    trained(sparse, follows, shrink)
    assert {key: tuple(one.shape) for key, one in graph.state_dict().items()} == keys
    now = optimizer.state_dict()
    assert now["param_groups"] == held["param_groups"]
    for index, state in held["state"].items():
        for key, value in state.items():
            assert torch.equal(now["state"][index][key], value)
    assert type(follows) is type(optimizer)
    assert [group["initial_lr"] for group in follows.param_groups] == [1e-3, 1e-3]
    schedule.optimizer = follows
    schedule.step()
    assert follows.param_groups[0]["lr"] == pytest.approx(1e-5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_schedules_inside_of_a_schedule_go_on_too() -> None:
    rates: list[list[float]] = []
    for cuts in ((), (6, 10)):
        graph = gated().train()
        shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
        parts = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 10)]
        schedule: Any = SequentialLR(optimizer, parts, [4])
        rates.append([])
        for step in range(13):
            trained(graph, optimizer, shrink)
            schedule.step()
            rates[-1].append(optimizer.param_groups[0]["lr"])
            if step in cuts:
                graph, optimizer = shrink.cut(optimizer)
                for one in [schedule, *schedule._schedulers]:
                    one.optimizer = optimizer
    assert rates[0] == rates[1]
    assert len({*rates[0]}) == 13


def test_where_nothing_closed_both_are_what_was_given() -> None:
    graph = gated().train()
    shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
    assert shrink.cut(optimizer) == (graph, optimizer)
    trained(graph, optimizer, shrink, 20)
    cut = shrink.cut(optimizer)
    assert cut[0] is not graph
    assert shrink.cut(cut[1]) == cut


def test_what_else_is_frozen_or_held_stays_so() -> None:
    graph = gated().train()
    graph.get_submodule("one.norm1").requires_grad_(False)
    own = nn.Parameter(torch.ones(3).double())
    shrink = steered(graph)
    optimizer = torch.optim.SGD([*parameter_groups(graph, 5e-4), {"params": [own], "lr": 0.5}], lr=0.01, momentum=0.9)
    trained(graph, optimizer, shrink, 20)
    sparse, follows = shrink.cut(optimizer)
    assert follows.param_groups[2]["params"] == [own]
    narrower = sparse.get_submodule("one.norm1")
    assert not any(one.requires_grad for one in narrower.parameters())
    held = {one for group in follows.param_groups for one in group["params"]}
    assert held.isdisjoint(narrower.parameters())
    assert all(one in held for one in sparse.parameters() if one.requires_grad)


def test_gradients_that_are_there_are_cut_too() -> None:
    graph = gated().train()
    shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
    trained(graph, optimizer, shrink, 20)
    optimizer.zero_grad()
    graph(IMAGES).square().mean().backward()
    sparse, _ = shrink.cut(optimizer)
    for path, one in sparse.named_parameters():
        before = graph.get_parameter(path)
        if before.grad is not None and one is not before:
            assert one.grad is not None
            assert one.grad.shape == one.shape
            assert one.grad.sum() == pytest.approx(float(before.grad.sum()), abs=1e-9)  # the others are 0


def test_averages_follow() -> None:
    graph = gated("branches,channels").train()
    shrink, optimizer = steered(graph, 0.3), OPTIMIZERS["nesterov"](parameter_groups(graph, 5e-4))
    averaging: Any = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(graph, multi_avg_fn=averaging, use_buffers=True)
    plain = copy.deepcopy(graph).requires_grad_(False).eval()
    for _ in range(12):
        trained(graph, optimizer, shrink)
        averaged.update_parameters(graph)
    uncut, other = copy.deepcopy((averaged, graph)), None
    sparse, optimizer = shrink.cut(optimizer)
    averaged, other = shrink.copies(averaged, plain)
    assert shrink.copies(averaged) is averaged
    assert isinstance(averaged, AveragedModel)
    assert averaged.n_averaged == 12
    x = IMAGES
    torch.testing.assert_close(averaged.eval()(x), uncut[0].eval()(x), rtol=1e-9, atol=1e-9)
    assert other is not None
    assert not any(one.requires_grad for one in other.parameters())
    assert not other.training
    trained(sparse, optimizer, shrink)
    averaged.update_parameters(sparse)
    keys = {key: one.shape for key, one in sparse.state_dict().items()}
    assert {key: one.shape for key, one in averaged.module.state_dict().items()} == keys
    trained(sparse, optimizer, shrink, 12)
    shrink.cut(optimizer)
    with pytest.raises(fxprune.FxpruneError, match=r"no copy of the graph as it was before the last cut"):
        shrink.copies(uncut[0])


@pytest.mark.parametrize("what", ["channels", "all"])
def test_it_goes_on_from_files_across_cuts(what: str, tmp_path: Path) -> None:
    graph = gated(what).train()
    shrink, optimizer = steered(graph), OPTIMIZERS["adam"](parameter_groups(graph, 5e-4))
    for step in range(14):
        trained(graph, optimizer, shrink)
        if step in (8, 12):
            graph, optimizer = shrink.cut(optimizer)
    states = {"network": graph.state_dict(), "shrink": shrink.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(states, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = steered(gated(what, seed=5).train())
    resumed.load_state_dict(state["shrink"])
    sparse = resumed.graph_module
    sparse.load_state_dict(state["network"])
    again = OPTIMIZERS["adam"](parameter_groups(sparse, 5e-4))
    again.load_state_dict(state["optimizer"])
    for _ in range(10):
        assert trained(sparse, again, resumed) == pytest.approx(trained(graph, optimizer, shrink), rel=1e-9)
    assert resumed.order == shrink.order
    assert resumed.closed_channels == shrink.closed_channels
    assert resumed.left == shrink.left
    cut, _ = resumed.cut(again)
    torch.testing.assert_close(cut.eval()(IMAGES), graph.eval()(IMAGES), rtol=1e-9, atol=1e-9)


def test_a_copy_of_all_goes_on_too() -> None:
    graph = gated("all").train()
    shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
    trained(graph, optimizer, shrink, 12)
    graph, optimizer = shrink.cut(optimizer)
    other = copy.deepcopy(shrink)
    assert other.graph_module is not graph
    assert (other.left, other.closed_channels, other.sites_left) == (
        shrink.left,
        shrink.closed_channels,
        shrink.sites_left,
    )
    again = OPTIMIZERS["plain"](parameter_groups(other.graph_module, 5e-4))
    assert trained(other.graph_module, again, other, 6) == pytest.approx(trained(graph, optimizer, shrink, 6))
    assert other.order == shrink.order


def test_states_from_before_a_cut_are_refused_afterwards_and_the_other_way_round() -> None:
    graph = gated().train()
    shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
    trained(graph, optimizer, shrink, 10)
    before = copy.deepcopy((graph.state_dict(), shrink.state_dict()))
    sparse, optimizer = shrink.cut(optimizer)
    after = copy.deepcopy((sparse.state_dict(), shrink.state_dict()))
    with pytest.raises(LoadError, match=r"^the state is of a graph with other gates, \S+ for one: .*shrink's state"):
        sparse.load_state_dict(before[0])
    with pytest.raises(LoadError, match=r"^this state is of the graph before it was cut: load it into a new one"):
        shrink.load_state_dict(before[1])
    fresh = gated().train()
    resumed = steered(fresh)
    with pytest.raises(LoadError, match=r"^the state is of a graph with other gates"):
        fresh.load_state_dict(after[0])
    resumed.load_state_dict(after[1])
    trained(sparse, optimizer, shrink, 10)
    shrink.cut(optimizer)
    with pytest.raises(LoadError, match=r"^this state is of the graph cut otherwise"):
        shrink.load_state_dict(after[1])
    other = steered(gated("branches,channels"))
    state = copy.deepcopy(after[1])
    state["cut"]["channels"]["nowhere"] = [1]
    with pytest.raises(LoadError, match=r"^this state is of another network"):
        other.load_state_dict(state)


def test_optimizers_that_cannot_follow_are_refused() -> None:
    graph = gated().train()
    shrink, optimizer = steered(graph), OPTIMIZERS["plain"](parameter_groups(graph, 5e-4))
    trained(graph, optimizer, shrink, 20)
    with pytest.raises(fxprune.FxpruneError, match=r"^cut: this SGD holds no parameter of the graph"):
        shrink.cut(torch.optim.SGD(gated().parameters(), lr=0.1))
    with pytest.raises(fxprune.FxpruneError, match=r"^cut: this SGD does not hold stem.weight, which is trained"):
        shrink.cut(torch.optim.SGD(graph.get_submodule("head").parameters(), lr=0.1))
    with pytest.raises(fxprune.FxpruneError, match=r"^ProximalL1.cut takes .*Optimizer for optimizer, got int 1"):
        shrink.cut(1)
    shrink.cut(optimizer)
    with pytest.raises(fxprune.FxpruneError, match=r"^cut: this SGD is of the graph before it was cut"):
        shrink.cut(optimizer)


def test_state_of_unknown_shape_is_refused_by_its_name() -> None:
    graph = gated().train()
    shrink = steered(graph)
    optimizer = torch.optim.Adafactor([one for one in graph.parameters() if one.requires_grad], lr=0.01)
    trained(graph, optimizer, shrink, 20)
    with pytest.raises(
        FxpruneValueError, match=r"^Adafactor's state of \S+weight has 'row_var' of shape \("
    ) as caught:
        shrink.cut(optimizer)
    assert "\n" not in str(caught.value)
    assert shrink.graph_module is graph  # as before
    trained(graph, optimizer, shrink)


TOGETHER = """
import sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {tests!r})
from channel_training import gated
import fxprune
from fxprune.pruning.own_loops import parameter_groups

store, rank, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
saved = {{}}

def train(norms, mine, wrap):
    graph = gated("branches,channels", norms=norms)
    graph.train()
    for module in graph.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen: with the statistics that it has
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.4), meet_after=20, probe_inputs=(images,))
    optimizer = torch.optim.SGD(parameter_groups(graph, 5e-4), lr=0.005, momentum=0.9, nesterov=True)
    network = wrap(graph)
    for step in range(24):
        optimizer.zero_grad()
        network(mine).square().mean().backward()
        optimizer.step()
        shrink.step()
        if step in (9, 15, 21):
            graph, optimizer = shrink.cut(optimizer)
            network = wrap(graph)
    cut = shrink.state_dict()["cut"]
    return {{"state": graph.state_dict(), "order": shrink.order, "left": shrink.left, "cut": cut}}

for norms in (nn.Identity, nn.BatchNorm2d):
    saved[f"one {{norms.__name__}}"] = train(norms, images, lambda graph: graph)
distributed.init_process_group("gloo", init_method=f"file://{{store}}", rank=rank, world_size=2)
for norms in (nn.Identity, nn.BatchNorm2d):
    saved[f"two {{norms.__name__}}"] = train(norms, images[rank::2], DistributedDataParallel)
distributed.destroy_process_group()
torch.save(saved, out)
"""


def test_two_processes_get_what_one_gets_across_cuts(tmp_path: Path) -> None:
    first, second = of_two_processes(TOGETHER, tmp_path)
    for norms in ("Identity", "BatchNorm2d"):
        one, two, other = first[f"one {norms}"], first[f"two {norms}"], second[f"two {norms}"]
        assert one["order"] == two["order"] == other["order"]
        assert one["cut"]["channels"] == two["cut"]["channels"] == other["cut"]["channels"] != {}
        assert one["left"] == two["left"] <= 0.4
        assert one["state"].keys() == two["state"].keys()
        for key, value in one["state"].items():
            torch.testing.assert_close(two["state"][key], value, rtol=1e-3, atol=1e-6, msg=f"{norms}: {key}")
            torch.testing.assert_close(other["state"][key], value, rtol=1e-3, atol=1e-6, msg=f"{norms}: {key}")
