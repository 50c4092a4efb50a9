"""RemoveLayers: convs and branches in one ranking; exact zeros change nothing."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import assert_rewrites, targets, tiny
from torch import fx

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneValueError, TargetError
from fxprune.gates.branch_scale import BranchScale
from fxprune.pipelines.chains import insert_scales
from fxprune.rewriting.contract import Contract
from fxprune.structures.gated_layers import layers


def scaled(*scales: float) -> fx.GraphModule:
    """Return the tiny network with scales on conv1, conv2 and the branch of both of its blocks."""
    graph = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(tiny()).graph_module
    for layer, scale in zip(layers(graph), scales, strict=True):
        if isinstance(layer.module, BranchScale):
            layer.assign(scale=scale)
        else:
            layer.assign(scale=scale, shortcut=0.5)
    return graph


def test_a_branch_at_zero_goes_with_all_that_is_in_it() -> None:
    one = passes.RemoveLayers(threshold=0.0)
    assert one.contract is Contract.VALUES
    result = assert_rewrites(scaled(0.0, 0.5, 0.0, 1.0, 0.0, 0.7), one, count=2)
    assert "branch block1: its scale is 0, so all of it is removed, with 3 nodes" in str(result.rewritten[0])
    assert "BranchScale" in targets(result.graph_module)
    assert not any(name.startswith("block1.") for name, _ in result.graph_module.named_parameters())


def test_a_threshold_keeps_only_the_signature() -> None:
    assert passes.RemoveLayers().contract is Contract.SIGNATURE
    assert_rewrites(scaled(1.0, 1.0, 0.005, 1.0, 1.0, 0.5), passes.RemoveLayers(), count=1)


def test_what_the_user_keeps_stays_at_any_scale() -> None:
    result = assert_rewrites(
        scaled(0.0, 0.0, 0.0, 0.0, 1.0, 0.0), passes.RemoveLayers(keep=["block1.conv1"]), count=2
    )
    assert [site.path for site in result.rewritten] == ["block2.branch_scale", "block1.conv2"]
    kept = ["block1.conv1", "block1.branch_scale"]
    assert [site.path for site in result.declined if site.why == "kept by the user"] == kept


def test_a_target_that_what_is_kept_forbids() -> None:
    graph = scaled(*[1.0] * 6)
    with pytest.raises(TargetError, match=r"cannot be met: without all 1 removable layers .* are left"):
        passes.RemoveLayers(target_macs=0.3, only=["block1.conv1"])(graph)
    with pytest.raises(TargetError, match=r"cannot be met: all 6 layers with a scale are kept by the user"):
        passes.RemoveLayers(target_macs=0.3, only=["head"])(graph)
    assert not passes.RemoveLayers(only=["head"])(graph).warnings
    assert not passes.RemoveLayers(target_macs=1.0, only=["head"])(graph).modified


@pytest.mark.parametrize(
    ("rank", "target", "gone"), [("scale", 0.9, "block1.conv1"), ("scale-per-mac", 0.7, "block2.branch_scale")]
)
def test_one_ranking_for_convs_and_branches(rank: str, target: float, gone: str) -> None:
    graph = scaled(0.3, 1.0, 1.0, 1.0, 1.0, 0.4)
    one = passes.RemoveLayers(target_macs=target, rank=rank)
    result = one(graph)
    assert [site.path for site in result.rewritten] == [gone]
    assert "expect to retrain" in result.warnings[0]


@pytest.mark.parametrize(("conv", "last"), [(0.6, "block2.conv1"), (9.0, "block2.branch_scale")])
def test_the_last_layer_overshoots_little(conv: float, last: str) -> None:
    graph = scaled(2.0, 2.0, 0.1, conv, 10.0, 0.5)
    result = passes.RemoveLayers(target_macs=0.5)(graph)
    assert [site.path for site in result.rewritten] == ["block1.branch_scale", last]  # a conv does; the branch is all
    assert "among the 2 smallest" in result.rewritten[-1].why


def test_what_a_branch_holds_counts_once_for_a_target() -> None:
    graph = scaled(0.1, 0.2, 0.0, 1.0, 1.0, 1.0)
    total = total_macs(graph)
    kept = next(layer for layer in layers(graph) if layer.path == "block1.branch_scale")
    result = passes.RemoveLayers(target_macs=(total - kept.macs) / total + 1e-9)(graph)
    assert [site.path for site in result.rewritten] == ["block1.branch_scale"]
    assert total_macs(result.graph_module) == total - kept.macs


def test_each_kind_alone() -> None:
    graph = scaled(0.0, 1.0, 0.0, 1.0, 1.0, 1.0)
    branches = assert_rewrites(graph, passes.RemoveLayers(threshold=0.0, kinds=("branch",)), count=1)
    assert [site.path for site in branches.rewritten] == ["block1.branch_scale"]
    convs = assert_rewrites(graph, passes.RemoveLayers(threshold=0.0, kinds=("conv",)), count=1)
    assert [site.path for site in convs.rewritten] == ["block1.conv1"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("convs",), r"kinds names some of .*branch, .*conv.*; got 'convs'; did you mean 'conv'\?"),
        ((3,), r"^RemoveLayers takes a sequence of a str for kinds, got tuple$"),
        ("conv", r"^RemoveLayers takes a sequence of a str for kinds, got str 'conv'$"),
    ],
)
def test_kinds_that_there_are_not(kinds: Any, message: str) -> None:
    with pytest.raises(fxprune.FxpruneError, match=message):
        passes.RemoveLayers(kinds=kinds)


def test_nothing_to_remove_is_said() -> None:
    assert "has no layer with a scale" in passes.RemoveLayers()(tiny()).warnings[0]
    sparse = passes.InsertResConv()(tiny()).graph_module
    (warning,) = passes.RemoveLayers(threshold=0.0)(sparse).warnings
    assert warning == "nothing was removed: the smallest of 4 scales is 1; train them to zero"


def test_layers_go_by_name() -> None:
    graph = scaled(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    paths = [gate.path for gate in fxprune.gates_of(graph)]
    result = passes.RemoveLayers(paths=["block1.conv1", paths[-1]])(graph)
    assert {gate.path for gate in fxprune.gates_of(result.graph_module)} < set(paths)
    assert "block1.conv1: it was named; " in " ".join(map(str, result.rewritten))
    assert {site.why for site in result.declined} == {"it was not named"}
    assert result.warnings == ("2 layers were cut though their scales go up to 1: outputs change; train on",)
    with pytest.raises(FxpruneValueError, match=r"paths has 'block1.conv', where no layer .* did you mean"):
        passes.RemoveLayers(paths=["block1.conv"])(graph)
    with pytest.raises(FxpruneValueError, match=r"where no layer with a gate that may go is"):
        passes.RemoveLayers(paths=["block1.conv1"], keep=["block1"])(graph)
    with pytest.raises(FxpruneValueError, match="paths says what goes: it excludes threshold, target_macs and rank"):
        passes.RemoveLayers(paths=["block1.conv1"], threshold=0.5)


def test_a_cut_that_changes_outputs_is_told_beside_gates_of_channels_too() -> None:
    sparse = insert_scales(tiny(), what="all").graph_module
    assert passes.RemoveLayers(threshold=0.0)(sparse).warnings == ()
    found = passes.RemoveLayers(target_macs=0.7)(sparse)
    assert found.rewritten
    assert "layers were cut for target_macs=0.7 though their scales go up to 1" in " ".join(found.warnings)


def test_a_criterion_without_a_target_is_refused() -> None:
    with pytest.raises(FxpruneValueError, match="rank='half-gate' says what goes first for target_macs"):
        passes.RemoveLayers(rank="half-gate", threshold=0.5)
