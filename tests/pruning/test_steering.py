"""Steering to a target: what is chosen, how fast it goes, what stays as it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import TinyNet, resconvs, tiny
from torch import fx, nn

import fxprune
from fxprune import passes, pruning
from fxprune.choosing.criteria.base import Criterion
from fxprune.errors import TargetError
from fxprune.gates.branch_scale import BranchScale
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.own_loops import measure_inputs
from fxprune.structures.gated_layers import Gate


def sparse_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8))
    return passes.InsertResConv()(graph).graph_module


@pytest.mark.parametrize("target", [0.8, 0.6, 0.3, 0.15])
def test_steering_meets_the_target_by_zeros_when_the_steps_are_over(target: float) -> None:
    graph = sparse_graph()
    before = fxprune.Pipeline([])(graph).graph_module
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=target), meet_after=20)
    optimizer = torch.optim.SGD(pruning.parameter_groups(graph, 1e-4), lr=0.05)
    history = []
    for _ in range(20):
        optimizer.zero_grad()
        graph(torch.randn(4, 3, 8, 8)).softmax(1)[:, 0].mean().backward()
        optimizer.step()
        shrink.step(0.05)
        history.append(len(shrink.zeros))
    assert history == sorted(history)
    result = passes.RemoveLayers(target_macs=target)(graph)
    assert not result.warnings
    assert len(result.rewritten) == history[-1]
    x = torch.randn(4, 3, 8, 8)
    assert fxprune.verify(before, result.graph_module, x, tolerance=1e-5).equal
    assert all(0 <= layer.gate.item() <= 1 for _, layer in resconvs(graph))


def test_steering_resumes_from_its_state() -> None:
    first = sparse_graph()
    shrink = fxprune.SteeredL1(first, targets=fxprune.Targets(macs=0.4), meet_after=10)
    for _ in range(6):
        shrink.step(0.1)
    second = sparse_graph()
    second.load_state_dict(first.state_dict())
    resumed = fxprune.SteeredL1(second, targets=fxprune.Targets(macs=0.4), meet_after=10)
    resumed.load_state_dict(shrink.state_dict())
    for _ in range(4):
        shrink.step(0.1)
        resumed.step(0.1)
    assert resumed.zeros == shrink.zeros
    assert [a.gate.item() for _, a in resconvs(first)] == [b.gate.item() for _, b in resconvs(second)]


def test_an_impossible_target_is_refused_before_training() -> None:
    with pytest.raises(TargetError, match="cannot be met"):
        fxprune.SteeredL1(sparse_graph(), targets=fxprune.Targets(macs=0.001), meet_after=10)


def test_it_can_be_pickled() -> None:
    shrink = fxprune.SteeredL1(sparse_graph(), targets=fxprune.Targets(macs=0.7), meet_after=4)
    assert pickle.loads(pickle.dumps(shrink)).meet_after == 4


def test_it_tells_what_it_compares() -> None:
    shrink = fxprune.SteeredL1(sparse_graph(), targets=fxprune.Targets(macs=0.7), meet_after=4)
    told: list[tuple[int, int]] = []
    shrink.comparing = lambda done, of: told.append((done, of))
    shrink.step(0.1)
    assert told[: told[0][1]] == [(index, len(shrink.layers)) for index in range(len(shrink.layers))]


def test_steering_needs_gates() -> None:
    graph = passes.InsertResConv(parametrization="free")(tiny()).graph_module
    with pytest.raises(fxprune.FxpruneError, match="gain-gate"):
        fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=10)


def test_gates_that_were_not_chosen_stay_as_they_are() -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.8), meet_after=10)
    for _ in range(12):
        with torch.no_grad():  # what momentum may do
            for layer in shrink.layers.values():
                layer.gate.sub_(0.3)
        shrink.step(0.1)
    assert {layer.effective_scale for path, layer in shrink.layers.items() if path not in shrink.order} == {1.0}
    assert shrink.closed == shrink.zeros == shrink.order != []


def test_chosen_gates_fall_by_the_schedule_whatever_the_optimizer_does() -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.8), meet_after=30)
    gates = []
    while not shrink.closed:
        with torch.no_grad():
            for layer in shrink.layers.values():
                layer.gate.sub_(1.0)
        shrink.step(0.1)
        gates.append(shrink.layers[shrink.order[0]].gate.item())
    falls = [before - after for before, after in pairwise(gates[:-1])]
    assert falls == pytest.approx([falls[0]] * len(falls), rel=1e-3)
    assert falls[0] == pytest.approx(1 - gates[0], rel=1e-3)
    assert len(falls) > 3


def test_gates_are_not_trained_in_any_order_of_optimizer_and_steering() -> None:
    for steering_first in (True, False):
        graph = sparse_graph()
        if steering_first:
            shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.4), meet_after=6)
        optimizer = torch.optim.SGD(pruning.parameter_groups(graph, 1e-4), lr=0.5, momentum=0.9)
        if not steering_first:
            shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.4), meet_after=6)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert all(id(layer.gate) in held for layer in shrink.layers.values())  # a resumed optimizer has the same
        for _ in range(4):
            optimizer.zero_grad()
            graph(torch.randn(4, 3, 8, 8)).sum().backward()
            before = shrink._gates_now()
            optimizer.step()
            assert shrink._gates_now() == before
            shrink.step(0.5)
        assert shrink.order


def test_a_fixed_strength_wakes_what_steering_left_resting() -> None:
    graph = sparse_graph()
    fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.8), meet_after=10)
    assert all(layer.resting for _, layer in resconvs(graph))
    shrink = fxprune.ProximalL1(graph, strength=0.5)
    for _ in range(2):
        shrink.step(1.0)
    assert [layer.effective_scale for _, layer in resconvs(graph)] == [0.0] * len(shrink.layers)


def test_the_shortcut_is_in_units_of_the_input_at_the_choice() -> None:
    graph = sparse_graph()
    measure_inputs(graph)  # on its example
    stale = [layer.input_rms.item() for _, layer in resconvs(graph)]
    shrink = fxprune.SteeredL1(
        graph, targets=fxprune.Targets(macs=0.4), meet_after=10, probe_inputs=(3 * torch.randn(4, 3, 8, 8),)
    )
    reference = graph.eval()(torch.ones(1, 3, 8, 8))
    with torch.no_grad():
        for layer in shrink.layers.values():
            layer.gate.sub_(0.01)  # as an optimizer's step does
    shrink.step(0.1)
    assert all(layer.input_rms.item() > 1.5 * was for (_, layer), was in zip(resconvs(graph), stale, strict=True))
    chosen = shrink.layers[shrink.order[0]]
    assert isinstance(chosen, fxprune.ResConv)
    chosen.assign(scale=1.0, shortcut=0.0)
    assert torch.equal(graph(torch.ones(1, 3, 8, 8)), reference)


class Alike(Criterion):
    """All layers are missed as much."""

    name = "alike"

    @contextmanager
    def measuring(self, *_: Any) -> Iterator[Callable[[Gate], float]]:
        yield lambda layer: 0.1


class Stages(nn.Module):
    """Residual convs of equal MACs: some read 8 x 8 positions with 8 channels, some 4 x 4 with 16."""

    def __init__(self, early: int, late: int) -> None:
        super().__init__()
        self.early = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(early))
        self.late = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(late))
        self.down = nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.early:
            x = torch.relu(x + conv(x))
        x = self.down(x)
        for conv in self.late:
            x = torch.relu(x + conv(x))
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("early", "late", "chosen"),
    [
        (1, 1, "early"),  # 4 times the positions, a quarter of the parameters
        (1, 3, "late"),  # the only early one against one of three
        (2, 3, "early"),
    ],
)
def test_of_equal_damages_what_the_network_can_best_do_without_goes_first(early: int, late: int, chosen: str) -> None:
    graph = fxprune.trace(Stages(early, late), torch.randn(4, 8, 8, 8))
    sparse = passes.InsertBranchScale()(graph).graph_module
    shrink = fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.9), meet_after=10, plan=fxprune.Plan(Alike()))
    assert len({layer.macs for layer in shrink._found.values()}) == 1
    shrink.step(0.1)
    path = shrink.order[0]
    convs = [node.target for node in shrink._found[path].nodes if str(node.target).startswith(("early", "late"))]
    assert str(convs[0]).startswith(chosen)


def test_a_branch_does_not_go_where_a_conv_is_enough() -> None:
    class Block(nn.Module):
        """A residual branch of two convs, each of which can go alone."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))

    graph = fxprune.trace(nn.Sequential(Block(), Block()), torch.randn(4, 8, 8, 8))
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    for target, chosen in ((0.76, fxprune.ResConv), (0.5, BranchScale)):
        shrink = fxprune.SteeredL1(
            sparse, targets=fxprune.Targets(macs=target), meet_after=10, plan=fxprune.Plan(Alike())
        )
        shrink.step(0.1)
        assert isinstance(shrink.layers[shrink.order[0]], chosen)


def test_macs_fall_evenly_over_all_the_steps() -> None:
    graph = sparse_graph()
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.3), meet_after=100)
    closed_at: dict[str, int] = {}
    for step in range(1, 101):
        shrink.step(0.1)
        closed_at |= {path: step for path in shrink.closed if path not in closed_at}
    times = [closed_at[path] for path in shrink.order]
    assert times[:-1] == sorted(times[:-1])  # the last saves more than is asked for, and may be quicker
    assert 85 <= max(closed_at.values()) <= 100
    assert sum(shrink.state_dict()["shares"]) == pytest.approx(1)


class Blocks(nn.Module):
    """Two residual blocks of two convs each, which hold nearly all of the MACs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for first, second in ((0, 1), (2, 3)):
            x = torch.relu(x + self.convs[second](torch.relu(self.convs[first](x))))
        return x.mean((2, 3))


@pytest.mark.parametrize("seed", range(4))
def test_the_last_layer_overshoots_little(seed: int) -> None:
    torch.manual_seed(seed)
    graph = insert_scales(fxprune.trace(Blocks(), torch.randn(4, 3, 8, 8)), "all").graph_module
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=1)
    shrink.step()
    assert 0.25 < shrink.left <= 0.5  # a block and one conv; the other block would do, and leave nearly nothing


def test_the_last_layer_is_no_one_that_is_missed_far_more() -> None:
    class Missed(Alike):
        """Convs are missed a thousand times as much as branches."""

        @contextmanager
        def measuring(self, *_: Any) -> Iterator[Callable[[Gate], float]]:
            yield lambda layer: 0.001 if isinstance(layer.module, BranchScale) else 1.0

    graph = insert_scales(fxprune.trace(Blocks(), torch.randn(4, 3, 8, 8)), "all").graph_module
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5), meet_after=1, plan=fxprune.Plan(Missed()))
    shrink.step()
    assert all(isinstance(shrink.layers[path], BranchScale) for path in shrink.order)


def test_a_learning_rate_changes_nothing() -> None:
    gates = []
    for rates in ((), (0.1,), (7.0,)):
        graph = sparse_graph()
        shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.8), meet_after=8)
        for _ in range(4):
            shrink.step(*rates)
        gates.append([layer.gate.item() for _, layer in resconvs(graph)])
    assert gates[0] == gates[1] == gates[2]
    with pytest.raises(TypeError, match="missing"):
        fxprune.ProximalL1(sparse_graph()).step()  # type: ignore[call-arg]


def test_no_steps_at_all_are_refused() -> None:
    sparse = passes.InsertResConv()(tiny()).graph_module
    with pytest.raises(fxprune.FxpruneError, match="number of steps after which targets are met; got 0"):
        fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.9), meet_after=0)


def test_layers_in_a_closed_branch_are_gone_too() -> None:
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    shrink = fxprune.ProximalL1(sparse, 0.0)
    branch = next(path for path, layer in shrink.layers.items() if isinstance(layer, BranchScale))
    shrink.layers[branch].close()
    assert shrink.closed == [branch]
    assert set(shrink.gone) > {branch}
    assert len(passes.RemoveLayers(threshold=0.0)(sparse).rewritten) == 1
