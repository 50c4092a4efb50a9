"""RemoveBranches: exact at zero; the ReLU behind an empty block goes in the clean-up."""

from __future__ import annotations

from helpers import assert_rewrites, targets, tiny

import fxprune
from fxprune import passes
from fxprune.facts.layers import branch_scales


def test_a_network_without_its_branches() -> None:
    graph = passes.InsertBranchScale()(tiny()).graph_module
    for layer in branch_scales(graph):
        layer.module.close()
    removed = assert_rewrites(graph, passes.RemoveBranches(), count=2).graph_module
    after = [passes.FuseBranchScale(), passes.FoldBatchNorm(), passes.Simplify()]
    result = fxprune.Pipeline(after)(removed)
    assert targets(result.graph_module) == ["Conv2d", "ReLU", "adaptive_avg_pool2d", "flatten", "Linear"]


def test_an_open_branch_stays_with_its_scale_in_the_reason() -> None:
    graph = passes.InsertBranchScale()(tiny()).graph_module
    result = assert_rewrites(graph, passes.RemoveBranches(), count=0)
    assert "scale 1 is above 0.01" in str(result.declined[0])
