"""Repair of layers with blocks: inside of them, nearer to what was computed, values held afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from partition_nets import conv_head

import fxprune
from fxprune import passes
from fxprune.choosing.partitions.plan import PartitionPlan


@pytest.mark.parametrize("options", [{}, {"statistics": "once"}, {"taps": "shared"}, {"ridge": 0.0}])
def test_it_fits_inside_of_blocks(options: dict[str, Any]) -> None:
    graph = conv_head()
    data = [torch.randn(64, 3, 8, 8) for _ in range(4)]
    masked = passes.MaskPartition(blocks=2)(graph).graph_module
    repaired = passes.Repair(data=data, reference=graph, **options)(masked).graph_module
    for path, blocks in PartitionPlan.of(repaired).layers.items():
        weight = repaired.get_parameter(f"{path}.weight")
        assert not weight[~blocks.mask()].any()
        assert not torch.equal(weight, masked.get_parameter(f"{path}.weight"))
    x = torch.cat(data)
    wanted = graph(x).detach()
    lost, left = (float((one(x).detach() - wanted).square().mean()) for one in (masked, repaired))
    assert left < 0.5 * lost
    assert passes.PartitionLinear()(repaired).modified


def test_a_pipeline_masks_repairs_and_splits() -> None:
    data = [torch.randn(64, 3, 8, 8)]
    chain = [passes.MaskPartition(blocks=3, by="cap", data=data), passes.Repair(data=data), passes.PartitionLinear()]
    result = fxprune.Pipeline(chain)(conv_head())
    told = [site.why for site in result.steps[1].result.rewritten if site.path in ("fc1", "fc2", "fc3")]
    assert len(told) == 3
    assert all("refitted on 64 images" in one for one in told)
    assert (result.max_relative or 0.0) < 1e-9


def test_a_permuted_network_is_compared_in_its_own_order() -> None:
    data = [torch.randn(64, 3, 8, 8)]
    split = fxprune.Pipeline([passes.MaskPartition(blocks=3), passes.PartitionLinear()])(conv_head()).graph_module
    less = passes.RemoveChannels(ratio=0.5, only=["fc2.*", "trunk.0"])(split).graph_module
    x = data[0]
    wanted = split(x).detach()
    repaired = passes.Repair(data=data, reference=split)(less).graph_module
    lost, left = (float((one(x).detach() - wanted).square().mean()) for one in (less, repaired))
    assert left < lost


def test_blocks_hold_when_channels_went_meanwhile() -> None:
    graph = conv_head()
    masked = passes.MaskPartition(blocks=3)(graph).graph_module
    fewer = passes.RemoveChannels(indices={"fc1": [0, 5], "trunk.0": [3]})(masked).graph_module
    result = passes.Repair(data=[torch.randn(200, 3, 8, 8)], reference=graph)(fewer)
    plan = fxprune.PartitionPlan.of(result.graph_module)
    assert {path: one.shape for path, one in plan.layers.items()} == {"fc1": (22, 44), "fc2": (18, 22)}
    for path, one in plan.layers.items():
        weight = result.graph_module.get_parameter(f"{path}.weight")
        assert not torch.equal(weight, fewer.get_parameter(f"{path}.weight"))
        assert not weight[~one.mask()].any()
    assert passes.PartitionLinear()(result.graph_module).modified
