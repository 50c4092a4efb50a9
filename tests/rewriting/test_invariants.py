"""What must hold of every graph after every pass is checked, and a breach names pass, node and rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.errors import ContractError
from fxprune.facts.shapes import note_shape
from fxprune.ir.nodes import ORIGIN, inherit
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.rewriting.invariants import OF_ALL, OF_OUR_PASSES


def lose_origins(node: fx.Node) -> None:
    node.meta.pop(ORIGIN)


def write_in_place(node: fx.Node) -> None:
    with node.graph.inserting_after(node):
        new = node.graph.call_method("relu_", (node,))
    inherit(new, node, made_by="broken")
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def tell_another_shape(node: fx.Node) -> None:
    note_shape(node, torch.zeros(1))


def read_before(node: fx.Node) -> None:
    (source,) = node.all_input_nodes
    node.append(source)


@dataclass(frozen=True)
class Broken(Pass):
    """Leave a graph that is not as it must be."""

    name: ClassVar[str] = "broken"
    contract: ClassVar[Contract] = Contract.NOTHING
    changes_shapes: ClassVar[bool] = False
    how: Callable[[fx.Node], None] = lose_origins

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        node = next(node for node in graph_module.graph.nodes if node.op == "call_module")
        self.how(node)
        log.rewrote(node, "broken")


class BrokenOfOurs(Broken):
    """The same, as if it were one of ours."""


BrokenOfOurs.__module__ = "fxprune.passes.broken"


def graph() -> fx.GraphModule:
    return fxprune.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()).eval(), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lose_origins, "nobody knows what it stands for"),
        (write_in_place, "it writes into a value"),
        (tell_another_shape, "it computes another shape or dtype than was noted"),
    ],
)
def test_a_breach_names_pass_node_and_rule(how: Callable[[fx.Node], None], why: str) -> None:
    with pytest.raises(ContractError, match=f"^pass broken left a graph that is not as it must be: .*: {why}"):
        BrokenOfOurs(how)(graph())


def test_every_rule_has_a_breach_above() -> None:
    assert len((*OF_ALL, *OF_OUR_PASSES)) == 3


def test_passes_of_others_may_leave_origins_out() -> None:
    assert Broken(lose_origins)(graph()).modified


def test_what_reads_before_it_is_there_is_told_by_torch() -> None:
    with pytest.raises(RuntimeError, match="before it has been defined"):
        Broken(read_before)(graph())


def test_what_a_model_writes_to_its_own_buffers_stays() -> None:
    class Counting(nn.Module):
        n: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.register_buffer("n", torch.zeros(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.add_(1)
            return self.norm(self.conv(x)) + self.n.sum()  # type: ignore[no-any-return]

    traced = fxprune.trace(Counting().eval(), torch.randn(1, 3, 4, 4))
    assert fxprune.passes.FoldBatchNorm()(traced).modified
