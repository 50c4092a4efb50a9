"""MaskPartition: what lies across blocks is zero, the rest as it was; blocks follow each other; errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_rewrites
from partition_nets import conv_head, mlp
from torch import fx

import fxprune
from fxprune import passes
from fxprune.choosing.partitions.plan import PartitionPlan
from fxprune.errors import FxpruneValueError, LoadError


def weight(graph: fx.GraphModule, path: str) -> torch.Tensor:
    return graph.get_parameter(f"{path}.weight")


@pytest.mark.parametrize("search", ["random", "alternating", "spectral", "min-cut"])
@pytest.mark.parametrize("by", ["weight", "activation", "cap"])
def test_what_lies_across_is_zero_and_nothing_else_is(search: Any, by: Any) -> None:
    graph = conv_head()
    result = assert_rewrites(graph, passes.MaskPartition(blocks=3, search=search, by=by), count=2)
    plan = PartitionPlan.of(result.graph_module)
    assert list(plan.layers) == ["fc1", "fc2"]
    for path, blocks in plan.layers.items():
        mask = blocks.mask()
        assert torch.equal(weight(result.graph_module, path), weight(graph, path) * mask)
        assert mask.float().mean() == pytest.approx(1 / 3)
    assert np.array_equal(plan.layers["fc1"].rows, plan.layers["fc2"].columns)
    assert weight(result.graph_module, "fc3") is weight(graph, "fc3")


def test_places_of_a_channel_stay_together() -> None:
    blocks = PartitionPlan.of(passes.MaskPartition(blocks=4)(conv_head()).graph_module).layers["fc1"]
    assert all(len(set(one)) == 1 for one in blocks.columns.reshape(12, 4).tolist())


def test_chosen_blocks_lose_less_than_drawn_ones() -> None:
    graph, x = conv_head(64), torch.randn(64, 3, 8, 8)
    wanted = graph(x).detach()

    def lost(search: Any, seed: int) -> float:
        one = passes.MaskPartition(blocks=2, search=search, by="activation", seed=seed)
        return float((one(graph).graph_module(x).detach() - wanted).square().mean())

    drawn = np.mean([lost("random", seed) for seed in range(5)])
    assert all(lost(search, 0) < drawn for search in ("alternating", "spectral", "min-cut"))


def test_what_does_not_divide_is_told() -> None:
    result = passes.MaskPartition(blocks=5)(conv_head())
    assert result.warnings == (
        "5 does not divide the channels of trunk.0 (12): blocks of 3 and of 2",
        "5 does not divide the outputs of fc1 (24): blocks of 5 and of 4",
        "5 does not divide the outputs of fc2 (18): blocks of 4 and of 3",
    )


def test_example_inputs_are_told_of() -> None:
    result = passes.MaskPartition(by="activation")(conv_head())
    assert "blocks were chosen on the graph's 4 example inputs" in result.warnings[-1]
    data = [torch.randn(8, 3, 8, 8), (torch.randn(8, 3, 8, 8), torch.zeros(8))]
    assert passes.MaskPartition(by="activation", data=data)(conv_head()).warnings == ()


def test_kept_layers_keep_their_chain() -> None:
    result = passes.MaskPartition(keep=["fc2"])(conv_head())
    assert not result.modified
    assert {site.why for site in result.declined} == {"kept by the user"}


def test_a_head_of_one_layer_is_told() -> None:
    result = passes.MaskPartition()(mlp(8, 4))
    assert not result.modified
    assert "no two linear layers follow each other" in result.warnings[0]
    assert "an output of the network" in result.declined[0].why


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 1}, "blocks is a number from 2 to 16; got 1"),
        ({"blocks": 17}, "blocks is a number from 2 to 16; got 17"),
        ({"search": "best"}, "search"),
        ({"blocks": 13}, "trunk.0 has 12 channels or features to enter by"),
        ({"by": "cap", "data": []}, "there are no images to choose by cap"),
        ({"keep": ["fc9"]}, "matches no module"),
    ],
)
def test_errors_are_of_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneValueError, match=message) as raised:
        passes.MaskPartition(**options)(conv_head())
    assert "\n" not in str(raised.value)


def test_a_plan_masks_another_copy_alike(tmp_path: Path) -> None:
    first = passes.MaskPartition(blocks=3, search="random", seed=7)(conv_head()).graph_module
    PartitionPlan.of(first).save(tmp_path / "partition.json")
    plan = PartitionPlan.load(tmp_path / "partition.json")
    second = passes.MaskPartition(plan=plan)(conv_head()).graph_module
    assert torch.equal(weight(first, "fc1"), weight(second, "fc1"))
    assert fxprune.passes.PartitionLinear()(second).modified


def test_a_plan_of_another_network_is_refused() -> None:
    plan = PartitionPlan.of(passes.MaskPartition()(conv_head()).graph_module)
    with pytest.raises(FxpruneValueError, match="no layer of a chain here"):
        passes.MaskPartition(plan=plan)(mlp(8, 12, 3))
    other = PartitionPlan({"0": plan.layers["fc1"]})
    with pytest.raises(FxpruneValueError, match="the plan has 0 as 24x48"):
        passes.MaskPartition(plan=other)(mlp(8, 12, 3))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "no json",
        '{"fxprune_partition": 1}',
        '{"fxprune_partition": 1, "layers": {"a": {"rows": [0.5], "columns": [0]}}}',
        '{"fxprune_partition": 1, "layers": {"a": {"rows": [-1], "columns": [0]}}}',
    ],
)
def test_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "partition.json"
    path.write_text(text)
    with pytest.raises(LoadError, match=r"partition\.json"):
        PartitionPlan.load(path)


def test_a_rest_of_what_lies_across_is_added() -> None:
    graph, x = conv_head(64), torch.randn(64, 3, 8, 8)
    one = passes.MaskPartition(blocks=2, keep_cross=0.5)
    result = assert_rewrites(graph, one, count=2)
    down, up = (weight(result.graph_module, f"fc1_cross.{name}") for name in ("down", "up"))
    rank = int(0.5 * (24 * 48 / 2) / (24 + 48))
    assert (down.shape, up.shape) == ((rank, 48), (24, rank))
    across = weight(graph, "fc1") - weight(result.graph_module, "fc1")
    assert float((across - up @ down).detach().norm()) == pytest.approx(
        float(torch.linalg.svdvals(across.detach())[rank:].norm()), rel=1e-3
    )
    whole = copy.deepcopy(graph)
    for path in ("fc1", "fc2"):
        down, up = (weight(result.graph_module, f"{path}_cross.{name}") for name in ("down", "up"))
        weight(whole, path).data.copy_(weight(result.graph_module, path) + up @ down)
    assert torch.allclose(result.graph_module(x), whole(x), atol=1e-6)
    assert_rewrites(result.graph_module, passes.PartitionLinear(), count=11)


def test_a_rest_is_not_fitted_twice() -> None:
    data = [torch.randn(64, 3, 8, 8)]
    graph = conv_head()
    chain = [passes.MaskPartition(blocks=2, keep_cross=0.5), passes.Repair(data=data), passes.PartitionLinear()]
    result = fxprune.Pipeline(chain)(graph)
    x = data[0]
    wanted = graph(x).detach()
    masked = result.steps[0].result.graph_module
    before, after = (float((one(x).detach() - wanted).square().mean()) for one in (masked, result.graph_module))
    assert after < before
    declined = {site.path: site.why for site in result.steps[1].result.declined}
    assert "is added to it in part" in declined["fc1"]


def test_a_rest_of_less_than_a_rank_is_told() -> None:
    result = passes.MaskPartition(blocks=2, keep_cross=0.01)(conv_head())
    assert "keep_cross=0.01 of fc1 is less than a rank" in result.warnings[0]
    with pytest.raises(FxpruneValueError, match="keep_cross is a share"):
        passes.MaskPartition(keep_cross=1.0)
    rest = passes.MaskPartition(blocks=2, keep_cross=0.5)(conv_head()).graph_module
    with pytest.raises(fxprune.FxpruneError, match="leave it out"):
        fxprune.emit_partitions(rest, "nowhere")


@pytest.mark.parametrize("search", ["random", "alternating", "spectral", "min-cut"])
def test_weights_that_are_not_finite_are_told_of(search: Any) -> None:
    graph = conv_head()
    graph.get_parameter("fc2.weight").data[0, 0] = float("nan")
    with pytest.raises(FxpruneValueError, match="fc2 has weights, or reads numbers, that are not finite"):
        passes.MaskPartition(blocks=2, search=search)(graph)
