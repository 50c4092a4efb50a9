"""Blocks held in a user's training loop: with averages, casts, compile, a resume in another copy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from partition_nets import conv_head, mlp
from together import of_two_processes
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneValueError


def masked() -> fx.GraphModule:
    return passes.MaskPartition(blocks=3)(conv_head()).graph_module.train()


def steps(network: nn.Module, graph: fx.GraphModule, count: int = 3, device_type: str = "") -> None:
    """Take some steps with momentum and decay."""
    held = fxprune.HeldPartition(graph)
    optimizer = torch.optim.AdamW(graph.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(device_type)):
            loss = network(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        held.step()


def is_in_blocks(graph: fx.GraphModule) -> bool:
    plan = fxprune.PartitionPlan.of(graph)
    assert len(plan.layers) == 2
    return not any(graph.get_parameter(f"{path}.weight")[~one.mask()].any() for path, one in plan.layers.items())


@pytest.mark.parametrize("device_type", ["", "cpu"])
def test_a_training_keeps_the_blocks(device_type: str) -> None:
    graph = masked()
    before = graph.get_parameter("fc1.weight").detach().clone()
    steps(graph, graph, device_type=device_type)
    assert is_in_blocks(graph)
    assert not torch.equal(before, graph.get_parameter("fc1.weight"))
    split = fxprune.Pipeline([passes.PartitionLinear()])(graph.eval())
    assert split.steps[0].result.modified


def test_without_it_they_are_lost() -> None:
    graph = masked()
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    graph(torch.randn(8, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert not is_in_blocks(graph)


def test_averages_stay_in_the_blocks() -> None:
    graph = masked()
    average = AveragedModel(graph)
    steps(graph, graph)
    average.update_parameters(graph)
    steps(graph, graph)
    average.update_parameters(graph)
    inside: Any = average.module
    assert is_in_blocks(inside)


def test_a_copy_is_held_alone() -> None:
    graph = masked()
    other = copy.deepcopy(graph)
    steps(other, other)
    assert is_in_blocks(other)
    assert torch.equal(graph.get_parameter("fc1.weight"), masked().get_parameter("fc1.weight"))


def test_a_cast_after_it_was_made_is_followed() -> None:
    graph = masked()
    held = fxprune.HeldPartition(graph)
    graph.double()
    with torch.no_grad():
        graph.get_parameter("fc1.weight").add_(1.0)
    held.step()
    assert is_in_blocks(graph)


def test_a_resume_in_another_copy_goes_on() -> None:
    graph = masked()
    steps(graph, graph)
    plan = fxprune.PartitionPlan.of(graph)
    again = passes.MaskPartition(plan=plan)(conv_head()).graph_module.train()
    again.load_state_dict(graph.state_dict())
    steps(again, again)
    assert is_in_blocks(again)


def test_blocks_are_held_inside_of_gates_of_channels_and_when_these_go() -> None:
    gated = fxprune.Pipeline([passes.InsertChannelGate()], verify=False)(masked().eval()).graph_module.train()
    assert len(fxprune.PartitionPlan.of(gated).layers) == 2
    steps(gated, gated)
    chain = [passes.RemoveChannels(indices={"fc1": [2, 7]}), passes.FuseChannelGate()]
    fewer = fxprune.Pipeline(chain, verify=False)(gated.eval()).graph_module
    assert fewer.get_parameter("fc2.weight").shape == (18, 22)
    assert is_in_blocks(fewer)


def test_a_graph_without_blocks_is_refused() -> None:
    with pytest.raises(FxpruneValueError, match="apply MaskPartition"):
        fxprune.HeldPartition(conv_head())


TOGETHER = """
import sys
import torch
from torch import distributed, nn
sys.path.insert(0, {tests!r})
from partition_nets import mlp
import fxprune
from fxprune import passes

rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
graph = passes.MaskPartition(blocks=3)(mlp(12, 9, 9, 4)).graph_module.train()
wrapped = nn.parallel.DistributedDataParallel(graph)
held = fxprune.HeldPartition(wrapped)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
torch.manual_seed(rank)
for _ in range(4):
    loss = wrapped(torch.randn(4, 12)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    held.step()
torch.save({{key: value.clone() for key, value in graph.state_dict().items()}}, sys.argv[3])
distributed.destroy_process_group()
"""


def test_two_processes_hold_the_same_blocks(tmp_path: Path) -> None:
    first, second = of_two_processes(TOGETHER, tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    graph = passes.MaskPartition(blocks=3)(mlp(12, 9, 9, 4)).graph_module
    assert not torch.equal(first["0.weight"], graph.get_parameter("0.weight"))
    graph.load_state_dict(first)
    assert is_in_blocks(graph)
