"""RemoveLayers of branches alone: exact at zero; the ReLU behind an empty block goes in the clean-up."""

from __future__ import annotations

import pytest
from helpers import assert_rewrites, targets, tiny

import fxprune
from fxprune import passes
from fxprune.structures.gated_layers import layers


def test_a_network_without_its_branches() -> None:
    graph = passes.InsertBranchScale()(tiny()).graph_module
    for layer in layers(graph):
        layer.module.close()
    removed = assert_rewrites(graph, passes.RemoveLayers(kinds=("branch",)), count=2).graph_module
    after = [passes.FuseBranchScale(), passes.FoldBatchNorm(), passes.Simplify()]
    result = fxprune.Pipeline(after)(removed)
    assert targets(result.graph_module) == ["Conv2d", "ReLU", "adaptive_avg_pool2d", "flatten", "Linear"]


def test_an_open_branch_stays_with_its_scale_in_the_reason() -> None:
    graph = passes.InsertBranchScale()(tiny()).graph_module
    result = assert_rewrites(graph, passes.RemoveLayers(kinds=("branch",)), count=0)
    assert "scale 1 is above 0.01" in str(result.declined[0])


def test_the_name_of_before_warns_and_does_the_same() -> None:
    with pytest.warns(DeprecationWarning, match=r"^RemoveBranches goes with 0.2; .* remove-layers{kinds=branch}$"):
        one = passes.RemoveBranches()
    graph = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    for layer in layers(graph):
        layer.assign(scale=0.0)
    assert [site.path for site in assert_rewrites(graph, one, count=2).rewritten] == [
        "block1.branch_scale",
        "block2.branch_scale",
    ]
