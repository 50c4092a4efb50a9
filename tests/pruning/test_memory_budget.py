"""Steering to a target for the peak of activation memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.costs.activation_memory import peak_activation_bytes
from fxprune.errors import TargetError
from fxprune.facts.shapes import shape
from fxprune.gates.branch_scale import BranchScale
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.memory_budget import MemoryBudget
from fxprune.structures.gated_layers import Gate, layers


class Blocks(nn.Module):
    """Residual blocks of two convs in two stages; the first has four times the positions of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in range(4):
            x = torch.relu(self.down(x)) if block == 2 else x
            x = torch.relu(x + self.convs[2 * block + 1](torch.relu(self.convs[2 * block](x))))
        return x.mean((2, 3))


def blocks() -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(Blocks(), torch.randn(4, 3, 8, 8))
    return fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module


def peak_without_zeros(graph: fx.GraphModule) -> int:
    removal = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])
    return peak_activation_bytes(removal(graph.eval()).graph_module)


def test_what_sets_the_memory_goes_first() -> None:
    graph = blocks()
    before = peak_without_zeros(graph)
    assert before == 3 * 8 * 64 * 4  # a block's input, what is between its convs, and its output
    untouched = {name: value.clone() for name, value in graph.state_dict().items()}
    flags = [module.training for module in graph.modules()]
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.5, memory=2 / 3), meet_after=40)
    assert shrink._next.relief(shrink._next.left_beside([]), []) is not None
    found = graph.state_dict()  # looking at what could go changed nothing
    rest = {f"{path}.{name}" for path in shrink.layers for name in ("history",)}
    assert all(torch.equal(found[name], value) for name, value in untouched.items() if name not in rest)
    assert [module.training for module in graph.modules()] == flags
    for step in range(40):
        shrink.step(0.1)
        if step == 30:
            state = {"graph": graph.state_dict(), "shrink": shrink.state_dict()}
    assert {shape(shrink._found[path].node) for path in shrink.order[:2]} == {(4, 8, 8, 8)}
    assert peak_without_zeros(graph) == before * 2 // 3

    again = blocks()
    again.load_state_dict(state["graph"])
    resumed = fxprune.SteeredL1(again, targets=fxprune.Targets(macs=0.5, memory=2 / 3), meet_after=40)
    resumed.load_state_dict(state["shrink"])
    for _ in range(9):
        resumed.step(0.1)
    assert resumed.order == shrink.order
    assert resumed.zeros == shrink.zeros


def test_layers_fall_evenly_where_memory_asks_for_more_than_macs_do() -> None:
    shrink = fxprune.SteeredL1(blocks(), targets=fxprune.Targets(macs=0.99, memory=2 / 3), meet_after=60)
    falls: dict[str, int] = {}
    for _ in range(60):
        shrink.step(0.1)
        for path in shrink.order:
            falls[path] = falls.get(path, 0) + (0 < float(shrink.layers[path].gate) < 1)
    assert len(shrink.closed) >= 2
    assert min(falls.values()) >= 10


def test_memory_of_shortcuts_whose_unit_is_not_measured_yet() -> None:
    class Dense(nn.Module):
        """A conv beside a concatenation: without it, its input times a factor takes as much memory."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.out = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 16))
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem(x))
            y: torch.Tensor = self.out(torch.cat([x, self.norm(self.conv(x))], 1))
            return y

    sparse = passes.InsertResConv()(fxprune.trace(Dense(), torch.randn(4, 3, 8, 8))).graph_module
    with pytest.raises(TargetError, match=r"target_memory=0\.75 cannot be met"):
        fxprune.SteeredL1(sparse, targets=fxprune.Targets(macs=0.99, memory=0.75), meet_after=10)


def test_memory_that_takes_more_than_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = blocks()
    monkeypatch.setattr(MemoryBudget, "excess", lambda self, removed: float(len(removed) < 3))
    shrink = fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.99, memory=0.9), meet_after=2)
    shrink.step(0.1)
    shrink.step(0.1)
    assert len(shrink.order) == 3
    shrink = fxprune.SteeredL1(blocks(), targets=fxprune.Targets(macs=0.99, memory=0.9), meet_after=1)
    monkeypatch.setattr(MemoryBudget, "excess", lambda self, removed: 1.0)
    with pytest.raises(TargetError, match="no layer is left to remove"):
        shrink.step(0.1)


def test_few_networks_are_compiled_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deep(nn.Module):
        """Many blocks, each of which holds the peak."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem(x))
            for first, second in zip(self.convs[::2], self.convs[1::2], strict=True):
                x = torch.relu(x + second(torch.relu(first(x))))
            return x.mean((2, 3))

    graph = insert_scales(fxprune.trace(Deep(), torch.randn(2, 3, 8, 8)), "all", verify=False).graph_module
    compiled: list[object] = []
    real = fxprune.Pipeline.__call__

    def counted(pipeline: fxprune.Pipeline, *given: Any) -> fxprune.PipelineResult:
        compiled.append(given)
        return real(pipeline, *given)

    monkeypatch.setattr(fxprune.Pipeline, "__call__", counted)
    fxprune.SteeredL1(graph, targets=fxprune.Targets(memory=0.7), meet_after=10)
    assert 0 < len(compiled) <= 8
    assert MemoryBudget(graph, 0.7).macs_to_meet_it() == sum(one.macs for one in layers(graph) if is_branch(one))


def is_branch(layer: Gate) -> bool:
    return isinstance(layer.module, BranchScale)


def test_peaks_that_lie_in_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = blocks()
    memory = MemoryBudget(graph, 0.9)
    asked: list[int] = []

    def peaks_without(_: MemoryBudget, removed: Sequence[Gate]) -> set[str]:
        asked.append(len(removed))
        return {"elsewhere"} if len(removed) < 4 else set()

    monkeypatch.setattr(MemoryBudget, "_peaks_without", peaks_without)
    assert memory.macs_to_meet_it() == sum(one.macs for one in layers(graph) if is_branch(one))
    assert asked == [0, 1, 2]  # then as many again, which are all


def test_memory_that_no_removal_lowers_is_refused_before_training() -> None:
    with pytest.raises(TargetError, match=r"target_memory=0.5 cannot be met: .* ask for at least 0.667"):
        fxprune.SteeredL1(blocks(), targets=fxprune.Targets(macs=0.5, memory=0.5), meet_after=10)
    stem_and_one = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    graph = passes.InsertResConv()(fxprune.trace(stem_and_one, torch.randn(4, 3, 8, 8))).graph_module
    with pytest.raises(TargetError, match=r"no removal lowers that, which is the most at _1 \(1\): leave"):
        fxprune.SteeredL1(graph, targets=fxprune.Targets(memory=0.9), meet_after=10)


def test_the_limit_is_of_the_whole_network_when_channels_are_closed() -> None:
    graph = insert_scales(blocks(), what="channels").graph_module
    limit = MemoryBudget(graph, 0.95).limit
    for gate in fxprune.gates_of(graph):
        if gate.kind == "channels":
            gate.assign(scale=torch.cat([torch.zeros(3), gate.scale[3:]]))
    assert MemoryBudget(graph, 0.95).limit == limit
