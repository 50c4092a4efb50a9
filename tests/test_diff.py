"""The diff accounts for every node of both graphs, and says why."""

from __future__ import annotations

from collections import Counter

from helpers import tiny, with_scales

import fxprune
from fxprune import passes
from fxprune.facts.layers import layers

STEPS = [passes.RemoveResConvs(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


def test_every_node_of_both_graphs_is_accounted_for_once() -> None:
    before = tiny()
    result = fxprune.Pipeline(STEPS)(with_scales(before, (0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)))
    changes = fxprune.diff(before, result.graph_module).changes
    old = Counter(name for change in changes for name in change.before)
    new = Counter(change.after for change in changes if change.after is not None)
    assert old == Counter(n.name for n in before.graph.nodes if n.op != "output")
    assert new == Counter(n.name for n in result.graph_module.graph.nodes if n.op != "output")


def test_kinds_costs_and_reasons() -> None:
    before = tiny()
    result = fxprune.Pipeline(STEPS)(with_scales(before, (0.0, 1.0), (0.5, 0.5)))
    found = fxprune.diff(before, result.graph_module, results=[result])
    by_path = {change.path: change for change in found.changes if change.op == "Conv2d"}
    removed = by_path["block1.conv1"]
    assert removed.kind == "removed"
    assert removed.macs[1] == 0
    assert removed.macs[0] > 0
    assert any("scale 0 is at most 0.01" in why for why in removed.why)
    fused = by_path["block2.conv1"]
    assert fused.kind == "fused"
    assert set(fused.before) == {"block2_conv1", "block2_bn1"}
    assert found.macs[0] > found.macs[1]
    text = str(found)
    assert "remove-resconvs: scale 0" in text
    assert "removed" in text


def test_a_graph_and_itself() -> None:
    graph = tiny()
    found = fxprune.diff(graph, graph)
    assert {change.kind for change in found.changes} == {"unchanged"}


def test_a_changed_constant_is_a_change() -> None:
    graph = tiny()
    other = passes.FoldBatchNorm()(graph).graph_module
    again = passes.FoldBatchNorm()(other).graph_module
    assert fxprune.diff(other, again).count("unchanged") == len(other.graph.nodes) - 1


def test_all_that_goes_with_a_branch_says_so() -> None:
    graph = tiny()
    scaled = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    for layer in layers(scaled.graph_module):
        if layer.path == "block1.branch_scale":
            layer.module.close()
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(scaled.graph_module)
    found = fxprune.diff(graph, result.graph_module, results=[scaled, result])
    removed = [change for change in found.changes if change.kind == "removed"]
    gone = [change for change in removed if change.path.startswith(("block1.conv", "block1.bn"))]
    assert {change.path for change in gone} >= {"block1.conv1", "block1.bn1", "block1.conv2", "block1.bn2"}
    assert all("remove-layers: scale 0 is at most 0; the branch goes" in " ".join(change.why) for change in gone)
    kept = [change for change in found.changes if change.path.startswith("block2")]
    assert not any("the branch goes" in " ".join(change.why) for change in kept)
