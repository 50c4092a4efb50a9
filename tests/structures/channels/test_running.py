"""What readers read: seen once by each, and its share in the loss is the gradient of a gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from channel_nets import NETS
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.pytrees import tensors_in
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Running, contributions


def traced(model: nn.Module, *inputs: torch.Tensor) -> tuple[fx.GraphModule, tuple[torch.Tensor, ...]]:
    doubles = tuple(one.double() if one.is_floating_point() else one for one in inputs)
    return fxprune.trace(model.double().eval(), doubles), doubles


def squares(outputs: Any) -> torch.Tensor:
    return torch.stack([one.square().sum() for one in tensors_in(outputs)]).sum()


def gradients_of_gates(channels: Channels, inputs: tuple[torch.Tensor, ...]) -> dict[int, float]:
    """Return d loss / d gate of each class, by autograd through the gates that are inserted."""
    graph = passes.InsertChannelGate()(channels.graph_module).graph_module
    found: dict[int, float] = {}
    gates = fxprune.gates_of(graph)
    if gates:
        squares(graph(*inputs)).backward()  # type: ignore[no-untyped-call]
    by_path = {gate.path: gate.module.gate for gate in gates}
    for group in channels.groups:
        gate = by_path.get(f"{group.name}_channels")
        if len(group.free) and gate is not None and gate.grad is not None:
            found |= dict(zip(group.free.tolist(), gate.grad.tolist(), strict=True))
    return found


@pytest.mark.parametrize("name", sorted(NETS))
def test_contributions_are_the_gradients_of_gates(name: str) -> None:
    torch.manual_seed(0)
    model, given = NETS[name]()
    graph, inputs = traced(model, *given)
    channels = Channels(graph)
    expected = gradients_of_gates(channels, inputs)
    with np.errstate(all="raise"):
        found = contributions(channels, inputs, squares)
    assert {one: found[one] for one in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


def test_so_they_are_in_attention_that_was_written_out() -> None:
    torch.manual_seed(0)
    plain, inputs = traced(SelfAttention(), torch.randn(2, 5, 16))
    graph = passes.SplitAttention()(plain).graph_module
    channels = Channels(graph)
    expected = gradients_of_gates(channels, inputs)
    assert expected
    found = contributions(channels, inputs, squares)
    assert {one: found[one] for one in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_so_they_are_in_a_graph_that_has_gates() -> None:
    torch.manual_seed(0)
    model, given = NETS["SqueezeExcite"]()
    graph, inputs = traced(model, *given)
    gated = passes.InsertChannelGate()(graph).graph_module
    before = {group.name: group.free for group in Channels(graph).groups}
    worth = contributions(Channels(graph), inputs, squares)
    channels = Channels(gated)
    found = contributions(channels, inputs, squares)
    for group in channels.groups:
        np.testing.assert_allclose(found[group.free], worth[before[group.name]], rtol=1e-9)


class TwoReaders(nn.Module):
    """One value that two layers read, and a product of it with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.first(x))
        return self.second(y) + self.third(y), y @ y.transpose(0, 1)


def test_each_reader_sees_a_value_once_and_may_change_what_it_alone_reads() -> None:
    torch.manual_seed(0)
    graph, (x,) = traced(TwoReaders(), torch.randn(5, 3))
    seen: list[Read] = []

    def see(read: Read, value: torch.Tensor) -> torch.Tensor:
        seen.append(read)
        return 2 * value if read.node.target == "third" else value

    channels = Channels(graph)
    with torch.no_grad():
        y = torch.relu(graph.get_submodule("first")(x))
        second, third = (graph.get_submodule(name) for name in ("second", "third"))
        sums, gram = Running(channels, see).run(x)
        torch.testing.assert_close(sums, second(y) + third(2 * y))
        torch.testing.assert_close(gram, y @ y.T)
    assert [read.axis for read in seen] == [1, 1, 1]
    assert len({read.operand for read in seen}) == 1


def test_of_a_product_with_itself_one_side_is_seen() -> None:
    torch.manual_seed(0)
    graph, (x,) = traced(TwoReaders(), torch.randn(5, 3))
    channels = Channels(graph)
    found = contributions(channels, (x,), lambda outputs: outputs[1].sum())
    y = torch.relu(graph.get_submodule("first")(x))
    expected = (y * y.sum(0)).sum(0)  # d/dg of sum_ij (g y_i) y_j
    np.testing.assert_allclose(found[channels.outputs["first"]], expected.detach().numpy(), rtol=1e-9)


def test_a_loss_that_depends_on_nothing_that_is_read_has_no_contributions() -> None:
    graph, (x,) = traced(TwoReaders(), torch.randn(5, 3))
    assert not contributions(Channels(graph), (x,), lambda outputs: torch.ones(())).any()


@pytest.mark.parametrize("name", ["SqueezeExcite", "Dense"])
def test_looking_changes_nothing(name: str) -> None:
    model, given = NETS[name]()
    graph, inputs = traced(model, *given)
    with torch.no_grad():
        plain = Interpreter(graph).run(*inputs)
        assert torch.equal(Running(Channels(graph), lambda read, value: value).run(*inputs), plain)
