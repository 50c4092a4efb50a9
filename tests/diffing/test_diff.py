"""The diff of two graphs: kinds, costs, reasons; of every step of a pipeline and of the whole."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from helpers import Block, assert_accounts, tiny, with_scales
from torch import nn

import fxprune
from fxprune import passes
from fxprune.diffing.entries import Change
from fxprune.structures.gated_layers import layers

STEPS = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


def by_path(found: fxprune.GraphDiff) -> dict[str, Change]:
    return {change.before[0].path: change for change in found.changes if change.before}


def test_kinds_costs_and_reasons() -> None:
    before = tiny()
    result = fxprune.Pipeline(STEPS)(with_scales(before, (0.0, 1.0), (0.5, 0.5)))
    found = fxprune.diff(before, result.graph_module, results=[result])
    assert_accounts(before, result.graph_module, found)
    removed = by_path(found)["block1.conv1"]
    assert removed.kind == "removed"
    assert removed.macs == (20_736, 0)
    first = removed.why[0]
    assert (first.pass_name, first.step) == ("remove-layers", 0)
    assert "its scale is 0" in first.rule
    fused = by_path(found)["block2.conv1"]
    assert fused.kind == "fused"
    assert [node.name for node in fused.before] == ["block2_conv1", "block2_bn1"]
    assert fused.before[0].detail == "3x3, 6 -> 6"
    assert [why.step for why in fused.why] == sorted(why.step for why in fused.why if why.step is not None)
    assert found.before.macs - found.after.macs == 20_736
    assert sum(change.macs[0] for change in found.changes) == found.before.macs
    assert found.differs


def test_a_graph_and_itself() -> None:
    graph = tiny()
    found = fxprune.diff(graph, graph)
    assert {change.kind for change in found.changes} == {"unchanged"}
    assert found.matched_by == "origin"
    assert not found.differs


def test_every_step_and_the_whole_have_their_diff() -> None:
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny())
    resconv = by_path(inserted.steps[0].diff)["block1.conv1"]
    assert (resconv.kind, resconv.what) == ("fused", ("op", "scale"))
    assert resconv.after is not None
    assert resconv.after.scale == 1
    assert resconv.macs == (20_736, 20_736)
    assert [why.pass_name for why in resconv.why] == ["insert-resconv"]
    scaled = by_path(inserted.steps[1].diff)["block1"]
    assert (scaled.kind, scaled.op, scaled.what[:2]) == ("changed", "BranchScale", ("op", "scale"))
    assert inserted.diff is inserted.diff
    assert inserted.diff.count("fused") == 4
    assert not fxprune.Pipeline([])(tiny()).diff.differs


def test_an_input_that_is_another_for_something_removed_says_why() -> None:
    graph = tiny()
    result = fxprune.Pipeline([passes.RemoveLayers()])(with_scales(graph, (0.0, 0.5), (0.5, 0.5)))
    changed = next(change for change in result.diff.changes if change.main.name == "block1_relu")
    assert changed.what == ("input",)
    assert "0.5 * x takes its place" in str(changed.why[0])


def test_a_factor_that_is_folded_is_told_of_both_layers() -> None:
    graph = tiny()
    sparse = with_scales(graph, (0.5, 0.5), (0.0, 0.5), (0.5, 0.5))
    found = fxprune.Pipeline(STEPS)(sparse).diff
    for path in ("block1.conv1", "block1.conv2"):
        assert any("factor 0.5 is now in block1_conv1" in why.rule for why in by_path(found)[path].why), path


def test_all_that_goes_with_a_branch_says_so() -> None:
    graph = tiny()
    scaled = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
    for layer in layers(scaled.graph_module):
        if layer.path == "block1.branch_scale":
            layer.module.close()
    result = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(scaled.graph_module)
    found = fxprune.diff(graph, result.graph_module, results=[scaled, result])
    paths = by_path(found)
    for path in ("block1.conv1", "block1.bn1", "block1.conv2", "block1.bn2"):
        assert paths[path].kind == "removed"
        assert any("its scale is 0, so all of it is removed" in why.rule for why in paths[path].why)
    assert [why.step for why in paths["block1.conv1"].why] == [0, 2]  # counted through both pipelines
    kept = [change for path, change in paths.items() if path.startswith("block2")]
    assert not any("all of it is removed" in why.rule for change in kept for why in change.why)


def test_a_pass_alone_tells_no_name() -> None:
    result = passes.FoldBatchNorm()(tiny())
    found = fxprune.diff(tiny(), result.graph_module, results=[result])
    why = by_path(found)["stem.0"].why
    assert [(one.pass_name, one.step) for one in why] == [("", None)]


def test_it_goes_through_json() -> None:
    result = fxprune.Pipeline(STEPS)(with_scales(tiny(), (0.0, 1.0), (0.5, 0.5)))
    assert fxprune.GraphDiff.from_json(json.loads(json.dumps(result.diff.to_json()))) == result.diff


class Deep(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(2) for _ in range(blocks)))

    def forward(self, x: torch.Tensor) -> Any:
        return self.blocks(x)


def calls(blocks: int, related: bool) -> int:
    """Return how many functions are called to compare a network with one that has its norms folded."""
    example = torch.randn(1, 2, 4, 4)
    graph = fxprune.trace(Deep(blocks).eval(), example, check=False)
    after = passes.FoldBatchNorm()(graph).graph_module
    if not related:
        after = fxprune.trace(after, example, check=False)
    count = 0

    def profile(*_: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        found = fxprune.diff(graph, after)
    finally:
        sys.setprofile(None)
    assert found.count("fused" if related else "removed") == 2 * blocks
    return count


@pytest.mark.parametrize("related", [True, False])
def test_the_work_grows_as_the_nodes_do(related: bool) -> None:
    few, twice, most = (calls(blocks, related) for blocks in (8, 16, 32))
    assert (most - twice) < 2.2 * (twice - few)
