"""Tensors that forward writes to: under every name, and no pass takes them for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Block, assert_rewrites, emitted, example, randomize
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.ir.copies import copy_graph_module, copy_module
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.rewriting.contract import Pass


class Aliased(nn.Module):
    """A conv, a norm and a linear layer; ``state`` is another name of, or a view of, what ``alias`` picks of them."""

    state: torch.Tensor

    def __init__(self, alias: Callable[[Any], torch.Tensor], late: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        with torch.no_grad():
            self.register_buffer("state", alias(self))
        self.late = late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.late:
            self.state.mul_(0.5).add_(x.mean().abs())
        y: torch.Tensor = self.last(self.norm(self.conv(x)).mean((2, 3)) * 0.5)
        if self.late:
            self.state.mul_(0.5).add_(x.mean().abs())
        return y


ALIASES: dict[str, Callable[[Any], torch.Tensor]] = {
    "the same buffer": lambda m: m.norm.running_mean,
    "a part of a buffer": lambda m: m.norm.running_var[1:3],
    "a weight's memory": lambda m: m.norm.weight.detach(),
    "a kernel as a matrix": lambda m: m.conv.weight.detach().view(4, -1),
    "a row of a matrix": lambda m: m.last.weight.detach()[0],
    "a bias": lambda m: m.last.bias.detach()[None],
}


def calls(graph: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of a copy of ``graph``, called again and again: what it updates goes on."""
    own = copy_module(graph)  # copy.deepcopy gives parameters memory of their own
    return [own(x) for x in inputs]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("alias", ALIASES)
def test_what_forward_writes_is_folded_nowhere(alias: str, late: bool) -> None:
    model = Aliased(ALIASES[alias], late).eval()
    x, z = torch.rand(2, 4, 5, 5), torch.rand(3, 4, 5, 5) + 1
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(fxprune.trace(model, x))
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(sparse.graph_module)
    expected = calls(model, x, z, x)
    for graph in (sparse.graph_module, result.graph_module):
        torch.testing.assert_close(calls(graph, x, z, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alias", ALIASES)
def test_verification_sees_a_write_through_another_name(alias: str) -> None:
    model = Aliased(ALIASES[alias]).eval()
    with torch.no_grad():
        model.state.add_(1)
    first = fxprune.trace(model, torch.rand(2, 4, 5, 5))
    second = copy_graph_module(first)
    for node in second.graph.nodes:
        if node.target == "mul_":
            node.args = (node.args[0], 0.25)
    second.recompile()
    assert fxprune.verify(first, copy_graph_module(first), torch.rand(2, 4, 5, 5)).equal
    assert not fxprune.verify(first, second, torch.rand(2, 4, 5, 5)).equal


class State(nn.Module):
    """Residual blocks around a buffer that is written again after it was read."""

    h: torch.Tensor

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("h", torch.zeros(2, 4, 8, 8))
        self.view = view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.h.add_(x)
        y = y.flip(0).flip(0).transpose(2, 3) if self.view else y
        out: torch.Tensor = y + self.conv(y)
        self.h.mul_(0.5)
        return out


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_a_sum_with_a_buffer_that_is_written_later_leaves_a_copy(view: bool, closed: bool) -> None:
    model, x = State(view).double().eval(), example(2, 4, 8, 8)
    sparse = assert_rewrites(fxprune.trace(model, x), passes.InsertBranchScale(), count=1).graph_module
    gate: Any = sparse.get_submodule("branch_scale")
    gate.close() if closed else gate.assign(scale=0.0)
    h = x.transpose(2, 3) if view else x
    torch.testing.assert_close(calls(sparse, x, x), [h, h * 1.5])
    removed = assert_rewrites(sparse, passes.RemoveLayers(threshold=0.0), count=1).graph_module
    torch.testing.assert_close(calls(removed, x, x), [h, h * 1.5])


def test_a_conv_at_the_identity_of_such_a_buffer_leaves_a_copy() -> None:
    class Held(State):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(self.h.add_(x))
            self.h.mul_(0.5)
            return out  # type: ignore[no-any-return]

    x = example(2, 4, 8, 8)
    sparse = passes.InsertResConv()(fxprune.trace(Held(False).double().eval(), x)).graph_module
    gate: Any = sparse.get_submodule("conv")
    gate.assign(scale=0.0, shortcut=1.0)
    removed = assert_rewrites(sparse, passes.RemoveLayers(threshold=0.0), count=1).graph_module
    torch.testing.assert_close(calls(removed, x, x), [x, x * 1.5])


class Reads(nn.Module):
    """A residual block, the statistics of whose norm forward reads, and writes, beside the norm."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.block, self.writes = Block(4), writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean: Any = self.block.bn1.running_mean
        if self.writes:
            mean.mul_(0.9).add_(x.mean((0, 2, 3)) * 0.1)
        return self.block(x) + mean[:, None, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_norm_whose_statistics_are_read_beside_it(writes: bool, scale: float, tmp_path: Any) -> None:
    x = example(2, 4, 6, 6)
    traced = fxprune.trace(randomize(Reads(writes)), x)
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(traced)
    assert not writes or any("running_mean" in site.why for site in inserted.declined)
    gate: Any = inserted.graph_module.get_submodule("block.branch_scale")
    gate.assign(scale=scale)
    removed = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING])(inserted.graph_module)
    torch.testing.assert_close(calls(removed.graph_module, x, x), calls(inserted.graph_module, x, x))
    emitted(removed.graph_module, tmp_path / "out")


def test_functional_statistics_are_written_where_the_flag_says_so() -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
            self.register_buffer("mean", self.norm.running_mean)
            self.register_buffer("variance", self.norm.running_var)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.batch_norm(x, self.mean, self.variance, training=True)  # type: ignore[arg-type]
            return self.norm(self.conv(y))  # type: ignore[no-any-return]

    one: Pass = passes.FoldBatchNorm()
    x = torch.rand(2, 4, 5, 5)
    result = one(fxprune.trace(Always().eval(), x))
    assert not result.modified
    assert "running_mean" in result.declined[0].why
