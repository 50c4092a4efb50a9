"""Nodes are matched by origin, however much was rewritten, reordered, shared or nested."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Block, Wrapped, assert_accounts, emitted, example, tiny, traced, with_scales
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

import fxprune
from fxprune import passes
from fxprune.ir.copies import copy_graph_module

CHAIN = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


def kinds(found: fxprune.GraphDiff) -> dict[str, str]:
    return {node.name: change.kind for change in found.changes for node in change.before or (change.main,)}


def test_a_layer_of_which_a_factor_is_left_is_removed() -> None:
    graph = tiny()
    removed = fxprune.Pipeline([passes.RemoveLayers()])(with_scales(graph, (0.0, 0.5), (1.0, 0.0))).graph_module
    for before in (graph, with_scales(graph, (1.0, 0.0))):
        found = kinds(fxprune.diff(before, removed))
        assert found["block1_conv1"] == "removed"
        assert found["mul"] == "added"


def test_from_the_pruned_graph_back_to_the_traced_one() -> None:
    graph = tiny()
    pruned = fxprune.Pipeline(CHAIN)(with_scales(graph, (0.0, 1.0), (0.5, 0.5))).graph_module
    found = fxprune.diff(pruned, graph)
    assert found.matched_by == "origin"
    assert_accounts(pruned, graph, found)
    assert kinds(found)["block1_conv1"] == "added"
    assert kinds(found)["block2_conv1"] == "changed"


def test_another_order_of_the_nodes_is_no_change() -> None:
    graph = traced(Wrapped(lambda m, x: torch.relu(x) + torch.sigmoid(x)), example(1, 2))
    other = copy_graph_module(graph)
    nodes = {node.name: node for node in other.graph.nodes}
    nodes["relu"].prepend(nodes["sigmoid"])
    other.graph.lint()
    found = fxprune.diff(graph, other)
    assert not found.differs
    assert_accounts(graph, other, found)
    assert [change.op for change in found.changes][1:3] == ["sigmoid", "relu"]


def test_a_layer_that_is_called_twice_has_two_entries_and_counts_once_in_all() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    graph = traced(Wrapped(lambda m, x: m.conv(m.conv(x)), conv=conv), example(1, 2, 4, 4))
    found = fxprune.diff(graph, graph)
    calls = [change for change in found.changes if change.op == "Conv2d"]
    assert [change.params for change in calls] == [(38, 38)] * 2
    assert found.before.params == 38


class Choosy(nn.Module):
    """A block that cannot be traced whole."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(4)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.block(x)
        return y if y.sum() > -1e9 else x


def test_regions_inside_opaque_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Choosy(), Block(4))
    graph = traced(model, example(2, 3, 8, 8))
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    result = fxprune.Pipeline(CHAIN)(with_scales(graph, (0.5, 0.5), (0.5, 0.5)))
    found = fxprune.diff(graph, result.graph_module, results=[result])
    for one, after in ((inserted.diff, inserted.graph_module), (found, result.graph_module)):
        assert_accounts(graph, after, one)
        assert sum(change.macs[0] for change in one.changes) == one.before.macs
        assert sum(change.params[1] for change in one.changes) == one.after.params
    inside = [change for change in inserted.diff.changes if change.main.path == "1.block.conv1"]
    assert [(change.kind, change.op) for change in inside] == [("fused", "ResConv")]
    assert inside[0].main.name.startswith("1.")
    assert "is now a ResConv" in str(inside[0].why[0])
    outside = [change for change in inserted.diff.changes if change.op == "Choosy"]
    assert [change.kind for change in outside] == ["unchanged"]


def test_two_traces_of_one_network_share_their_origins() -> None:
    torch.manual_seed(0)
    block = Block(4).eval()
    small, large = (fxprune.trace(block, torch.randn(n, 4, 6, 6)) for n in (1, 3))
    assert fxprune.diff(small, large).matched_by == "origin"
    assert not fxprune.diff(small, large).differs  # shapes are those of a sample
    wide = fxprune.trace(Block(8).eval(), torch.randn(1, 8, 6, 6))
    found = fxprune.diff(small, wide)
    assert found.matched_by == "origin"
    assert {"kernel", "shape", "options"} <= set(next(c for c in found.changes if c.op == "Conv2d").what)
    other = fxprune.trace(nn.Sequential(nn.Conv2d(4, 4, 3)).eval(), torch.randn(1, 4, 6, 6))
    assert fxprune.diff(small, other).matched_by == "guess"


def test_a_folder_keeps_the_origins(tmp_path: Path) -> None:
    graph = tiny()
    result = fxprune.Pipeline(CHAIN)(with_scales(graph, (0.0, 1.0), (0.5, 0.5)))
    _, again = emitted(result.graph_module, tmp_path)
    assert not fxprune.diff(result.graph_module, again).differs
    found = fxprune.diff(graph, again, results=[result])
    assert found == fxprune.diff(graph, result.graph_module, results=[result])
    assert fxprune.diff(graph, again).matched_by == "origin"


@pytest.mark.parametrize("one", [passes.FoldBatchNorm(), passes.InsertResConv(), passes.InsertBranchScale()])
def test_a_copy_is_the_same(one: Any) -> None:
    graph = one(tiny()).graph_module
    assert not fxprune.diff(graph, copy.deepcopy(graph)).differs


def test_passes_of_others_are_matched_by_what_they_kept() -> None:
    graph = tiny()

    def drop_relus(graph_module: fx.GraphModule) -> Any:
        for node in list(graph_module.graph.nodes):
            if node.name.endswith("relu"):
                node.replace_all_uses_with(node.args[0])
                graph_module.graph.erase_node(node)
        graph_module.recompile()
        return PassResult(graph_module, True)

    found = fxprune.Pipeline([drop_relus], verify=False)(graph).diff
    assert found.count("removed") == 2
    assert found.count("added") == 0
