"""The rewriter: what is new inherits, uses are replaced, what is unread goes, and facts end with an edit."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import PASSES, called_module, origins
from fxprune.rewriting.contract import Log
from fxprune.rewriting.rewriter import Rewriter


class Net(nn.Module):
    """relu(conv(x)) * 2 * 3, and a weight of its own that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x)) * 2.0 * 3.0
        return torch.nn.functional.linear(y, torch.tanh(self.weight * 2.0))


def rewriter() -> tuple[Rewriter, dict[str, fx.Node]]:
    graph = copy_graph_module(fxprune.trace(Net().eval(), torch.randn(1, 2, 2, 2)))
    return Rewriter(graph, Log(), "testing"), {node.name: node for node in graph.graph.nodes}


def names(made: Rewriter) -> list[str]:
    made.graph_module.graph.lint()
    return [node.name for node in made.graph_module.graph.nodes]


def test_the_graph_of_these_tests() -> None:
    made, _ = rewriter()
    assert names(made) == ["x", "conv", "relu", "mul", "mul_1", "weight", "mul_2", "tanh", "linear", "output"]


def test_a_new_node_stands_for_the_given_ones_and_has_the_metadata_of_the_last() -> None:
    made, node = rewriter()
    new = made.insert(
        "call_function", operator.mul, (node["relu"], 6.0), before=node["mul_1"], of=[node["mul"], node["mul_1"]]
    )
    assert new.next is node["mul_1"]
    assert new.args == (node["relu"], 6.0)
    assert origins(new) == ("mul", "mul_1")
    assert new.meta[PASSES] == ("testing",)
    assert new.meta["tensor_meta"] is node["mul_1"].meta["tensor_meta"]


def test_a_copy_is_a_clone_of_what_stands_there() -> None:
    made, node = rewriter()
    new = made.copy(node["conv"], node["mul"])
    assert (new.target, new.args, origins(new)) == (torch.clone, (node["conv"],), ("conv",))
    assert new.next is node["mul"]


def test_a_replaced_node_goes_with_its_last_reader() -> None:
    made, node = rewriter()
    made.replace(node["mul"], node["relu"])
    assert node["mul_1"].args[0] is node["relu"]
    assert "mul" not in names(made)
    made.replace(node["relu"], node["conv"], readers=())
    assert "relu" in names(made)
    assert list(node["relu"].users) == [node["mul_1"]]


def test_a_replaced_computation_takes_along_what_it_alone_needed() -> None:
    made, node = rewriter()
    made.replace_computation(node["tanh"], node["weight"])
    assert names(made) == ["x", "conv", "relu", "mul", "mul_1", "weight", "linear", "output"]
    made.replace_computation(node["linear"], node["mul_1"])
    assert names(made) == ["x", "conv", "relu", "mul", "mul_1", "output"]
    made.replace_computation(node["conv"], node["x"])  # what the graph takes stays
    assert names(made) == ["x", "relu", "mul", "mul_1", "output"]


def test_nodes_that_only_each_other_read_are_erased_together() -> None:
    made, node = rewriter()
    made.replace(node["linear"], node["x"])
    made.erase({node["mul_1"], node["relu"], node["mul"]})
    assert names(made) == ["x", "conv", "weight", "mul_2", "tanh", "output"]


def test_one_input_is_replaced() -> None:
    made, node = rewriter()
    made.replace_input(node["mul_1"], node["mul"], node["conv"])
    assert node["mul_1"].args == (node["conv"], 3.0)
    assert "mul" in names(made)


def test_a_layer_is_set_in_this_graph_alone_and_absorbs() -> None:
    made, node = rewriter()
    old, new = called_module(node["conv"]), nn.Conv2d(2, 2, 1)
    made.set_layer(node["conv"], new, node["relu"])
    assert called_module(node["conv"]) is new is not old
    assert origins(node["conv"]) == ("conv", "relu")
    assert node["conv"].meta[PASSES] == ("testing",)


@pytest.mark.parametrize("value", [nn.Linear(2, 2), nn.Parameter(torch.ones(2)), torch.ones(2)])
def test_what_is_put_is_registered(value: nn.Module | torch.Tensor) -> None:
    made, _ = rewriter()
    assert made.put("new.place", value) == "new.place"
    new = made.graph_module.get_submodule("new")
    tables = (new._modules, new._parameters, new._buffers)
    assert [list(table) for table in tables].count(["place"]) == 1
    assert getattr(new, "place") is value  # noqa: B009  # of what kind is not known


def erase_tanh(made: Rewriter, node: dict[str, fx.Node]) -> None:
    made.replace(node["linear"], node["mul_1"])
    assert made.facts(lambda graph_module: len(graph_module.graph.nodes)) == 9
    made.erase([node["tanh"]])


EDITS: dict[str, Callable[[Rewriter, dict[str, fx.Node]], object]] = {
    "insert": lambda made, node: made.insert("get_attr", "weight", before=node["linear"], of=[node["linear"]]),
    "copy": lambda made, node: made.copy(node["conv"], node["mul"]),
    "set_layer": lambda made, node: made.set_layer(node["conv"], nn.Conv2d(2, 2, 1)),
    "replace": lambda made, node: made.replace(node["mul"], node["relu"]),
    "replace_input": lambda made, node: made.replace_input(node["mul_1"], node["mul"], node["relu"]),
    "replace_computation": lambda made, node: made.replace_computation(node["tanh"], node["weight"]),
    "erase": erase_tanh,
}


@pytest.mark.parametrize("edit", EDITS)
def test_facts_are_worked_out_once_a_version(edit: str) -> None:
    made, node = rewriter()
    asked: list[int] = []

    def count(graph_module: fx.GraphModule) -> int:
        asked.append(len(graph_module.graph.nodes))
        return len(graph_module.graph.nodes)

    facts = made.facts
    assert made.facts(count) == made.facts(count) == 10
    assert asked == [10]
    EDITS[edit](made, node)
    assert made.facts is not facts
    assert made.facts(count) == len(made.graph_module.graph.nodes)
    assert len(asked) == 2


def test_what_takes_the_place_of_a_wrapped_function_is_not_wrapped() -> None:
    made, nodes = rewriter()
    nodes["relu"].meta["is_wrapped"] = True
    new = made.insert("call_function", torch.tanh, nodes["relu"].args, before=nodes["relu"], of=[nodes["relu"]])
    same = made.insert("call_function", torch.relu, nodes["relu"].args, before=nodes["relu"], of=[nodes["relu"]])
    assert ("is_wrapped" in new.meta, "is_wrapped" in same.meta) == (False, True)
