"""RemoveLayers of convs alone: by threshold, by target, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_rewrites, example, resconvs, tiny, with_scales

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs
from fxprune.errors import TargetError
from fxprune.pruning.own_loops import measure_inputs


def test_scale_zero_is_removed_exactly() -> None:
    graph = with_scales(tiny(), (0.0, 0.7), (1.0, 0.0), (0.0, 1.0), (0.0, -0.5))
    result = assert_rewrites(graph, passes.RemoveLayers(kinds=("conv",)), count=3)
    x = example(3, 3, 8, 8, seed=1)
    assert fxprune.verify(graph, result.graph_module, x, tolerance=1e-12).equal
    assert "takes its place" in result.rewritten[0].why


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 1), (0.005, 1), (0.01, 2), (0.5, 3), (1.0, 4)])
def test_threshold(threshold: float, count: int) -> None:
    graph = with_scales(tiny(), (0.0, 1.0), (0.009, 1.0), (-0.4, 1.0), (1.0, 0.0))
    result = assert_rewrites(graph, passes.RemoveLayers(threshold=threshold, kinds=("conv",)), count=count)
    assert len(result.declined) == 4 - count


def test_a_layer_at_the_threshold_becomes_its_shortcut() -> None:
    graph = with_scales(tiny(), (0.005, 0.7), (1.0, 0.0))
    removed = passes.RemoveLayers(kinds=("conv",))(graph).graph_module
    graph.get_submodule("block1.conv1").assign(scale=0.0, shortcut=0.7)  # type: ignore[operator]
    assert fxprune.verify(graph, removed, example(2, 3, 8, 8), tolerance=1e-6).equal


def test_target_takes_the_smallest_first_and_warns_of_large_ones() -> None:
    graph = with_scales(tiny(), (0.9, 0.1), (0.2, 0.8), (0.0, 1.0), (1.0, 0.0))
    result = assert_rewrites(graph, passes.RemoveLayers(target_macs=0.6, kinds=("conv",)), count=2)
    assert [site.path for site in result.rewritten] == ["block2.conv1", "block1.conv2"]
    assert total_macs(result.graph_module) <= 0.6 * total_macs(graph)
    assert "retrain" in result.warnings[0]


def test_a_layer_cut_for_the_target_keeps_the_size_of_the_signal() -> None:
    graph = passes.InsertResConv()(tiny()).graph_module
    result = passes.RemoveLayers(target_macs=0.85, kinds=("conv",))(graph)
    layer = next(module for node, module in resconvs(graph) if node.target == result.rewritten[0].path)
    (factor,) = [
        n.args[1] for n in result.graph_module.graph.nodes if n.target is torch.ops.aten.mul or n.name == "mul"
    ]
    assert float(layer.input_rms) == 1  # the graph given is not changed
    measure_inputs(graph)
    assert factor == pytest.approx(float(layer.gain / layer.input_rms))


def test_an_impossible_target_says_what_is_possible() -> None:
    graph = passes.InsertResConv()(tiny()).graph_module
    with pytest.raises(
        TargetError, match=r"cannot be met: without all 4 removable layers 0\.\d+ of the MACs are left"
    ):
        passes.RemoveLayers(target_macs=0.01, kinds=("conv",))(graph)


@pytest.mark.parametrize("options", [{"target_macs": 0.0}, {"target_macs": 1.5}, {"threshold": -1.0}])
def test_senseless_options_are_refused(options: Any) -> None:
    with pytest.raises(fxprune.FxpruneError):
        passes.RemoveLayers(kinds=("conv",), **options)


def test_the_name_of_before_warns_and_does_the_same() -> None:
    with pytest.warns(DeprecationWarning, match=r'^RemoveResConvs goes with 0.2; use .*kinds=\("conv",\)') as warned:
        one = passes.RemoveResConvs(threshold=0.5, target_macs=0.6)
    assert [Path(record.filename).name for record in warned] == [Path(__file__).name]
    graph = with_scales(tiny(), (0.0, 1.0), (0.009, 1.0), (-0.4, 1.0), (1.0, 0.0))
    result = assert_rewrites(graph, one, count=3)
    same = passes.RemoveLayers(threshold=0.5, target_macs=0.6, kinds=("conv",))(graph)
    assert (result.graph_module.code, result.rewritten) == (same.graph_module.code, same.rewritten)
