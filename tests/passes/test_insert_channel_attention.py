"""InsertChannelAttention: where gates are put, where not, and that all else stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import assert_rewrites, example, module_at, traced
from torch import nn
from torch.nn import functional

import fxprune
from benchmarks import networks
from fxprune import passes
from fxprune.costs.macs import total_macs, unknown_macs
from fxprune.errors import EmitError, FxpruneValueError
from fxprune.gates.channel_attention import ChannelAttention


def plain() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 20, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4))


def test_a_gate_stands_between_a_conv_and_its_norm() -> None:
    graph = traced(plain(), torch.randn(2, 3, 8, 8))
    result = assert_rewrites(graph, passes.InsertChannelAttention(), count=2)
    attended = result.graph_module
    called = [str(node.target) for node in attended.graph.nodes if node.op == "call_module"]
    assert called[:4] == ["0", "0_attention", "1", "2"]
    gate = module_at(attended, "0_attention")
    assert next(gate.parameters()).dtype is torch.float64
    x = example(2, 3, 8, 8)
    y = module_at(graph, "1")(gate(module_at(graph, "0")(x)))
    z = module_at(attended, "3_attention")(module_at(graph, "3")(y.relu())).relu()
    torch.testing.assert_close(attended(x), module_at(graph, "7")(z.mean((2, 3))))


def test_gates_are_drawn_by_a_seed() -> None:
    graph = fxprune.trace(plain().eval(), torch.randn(2, 3, 8, 8))
    states = [passes.InsertChannelAttention(seed=seed)(graph).graph_module.state_dict() for seed in (0, 0, 1)]
    name = "3_attention.attention.0.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_what_is_kept_has_none_and_says_so() -> None:
    graph = fxprune.trace(networks.resnet20().eval(), torch.randn(2, 3, 32, 32))
    result = passes.InsertChannelAttention(only=["layer*.conv1"])(graph)
    assert len(result.rewritten) == 9
    assert {site.why for site in result.declined} == {"kept by the user"}
    with pytest.raises(FxpruneValueError, match="matches no module"):
        passes.InsertChannelAttention(keep=["layer9"])(graph)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(functional.conv2d(x, self.weight).relu()).mean((2, 3))
        return found


def test_functions_are_convs_too_and_outputs_are_not_judged() -> None:
    graph = traced(Functional(), torch.randn(2, 3, 8, 8))
    result = assert_rewrites(graph, passes.InsertChannelAttention(), count=1)
    assert [(site.path, site.why) for site in result.declined] == [
        ("head", "none of its output channels can go: an output of the network")
    ]


def test_its_macs_are_counted() -> None:
    graph = fxprune.trace(plain().eval(), torch.randn(2, 3, 8, 8))
    attended = passes.InsertChannelAttention()(graph).graph_module
    assert total_macs(attended) - total_macs(graph) == 2 * 8 + 2 * 20
    assert unknown_macs(attended) == []


def test_a_graph_with_gates_is_not_emitted(tmp_path: Path) -> None:
    attended = passes.InsertChannelAttention()(fxprune.trace(plain().eval(), torch.randn(2, 3, 8, 8))).graph_module
    with pytest.raises(EmitError, match="0_attention is a gate of attention, which only measures"):
        fxprune.emit(attended, tmp_path / "out")


def test_training_reaches_gates_and_convs() -> None:
    attended = passes.InsertChannelAttention()(fxprune.trace(plain(), torch.randn(4, 3, 8, 8))).graph_module.train()
    loss = functional.cross_entropy(attended(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 3]))
    torch.autograd.backward(loss)
    gates = [one for one in attended.modules() if isinstance(one, ChannelAttention)]
    assert len(gates) == 2
    assert all(one.grad is not None for one in attended.parameters())
