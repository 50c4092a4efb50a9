"""PartitionLinear: blocks as layers of their own, at the same values, permutations folded or picked by index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_rewrites
from partition_nets import conv_head, mlp, randomized
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.costs.macs import total_macs, total_params
from fxprune.ir.nodes import called_module


def masked(graph: fx.GraphModule, blocks: int = 2, **options: Any) -> fx.GraphModule:
    return passes.MaskPartition(blocks=blocks, **options)(graph).graph_module


def targets(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if "index_select" in str(node.target)]


@pytest.mark.parametrize("form", ["linears", "conv", "bmm", "measured"])
@pytest.mark.parametrize("blocks", [2, 3, 6])
def test_a_head_is_computed_by_blocks(form: Any, blocks: int) -> None:
    graph = masked(conv_head(), blocks)
    result = assert_rewrites(graph, passes.PartitionLinear(form=form), count=7)
    assert targets(result.graph_module) == []  # the conv, its norm, fc1, its norm, fc2, its slopes and fc3 are sorted
    per_sample = (48 * 24 + 24 * 18) * (blocks - 1) // blocks
    assert total_macs(graph) - total_macs(result.graph_module) == per_sample
    assert total_params(graph) - total_params(result.graph_module) == per_sample


def test_it_is_told_what_became_of_a_layer() -> None:
    result = passes.PartitionLinear()(masked(conv_head()))
    told = {site.path: site.why for site in result.rewritten}
    assert told["fc1"] == "24x48 -> 2 blocks of 12x24, as linears"
    assert told["trunk.0"] == "its channels are in the order of the blocks that read them"


def test_blocks_of_unlike_sizes_are_layers_of_their_own() -> None:
    result = assert_rewrites(masked(mlp(11, 13, 7), 3), passes.PartitionLinear(form="bmm"), count=2)
    shapes = [
        tuple(module.weight.shape)
        for node in result.graph_module.graph.nodes
        if isinstance(module := called_module(node), nn.Linear)
    ]
    assert shapes == [(5, 4), (4, 4), (4, 3), (7, 13)]


def test_an_input_is_picked_by_index() -> None:
    result = assert_rewrites(masked(mlp(8, 12, 3)), passes.PartitionLinear(), count=2)
    assert len(targets(result.graph_module)) == 1
    assert "its inputs are picked by index" in result.rewritten[-1].why


class Read(nn.Module):
    """What enters the head is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 6, 1), nn.Linear(24, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv(x)
        return x, self.b(torch.relu(self.a(x.flatten(1))))


def test_what_is_an_output_too_stays_in_its_order() -> None:
    graph = masked(fxprune.trace(Read().eval(), torch.randn(2, 3, 2, 2)), 3)
    result = assert_rewrites(graph, passes.PartitionLinear(), count=2)
    assert len(targets(result.graph_module)) == 1


class Apart(nn.Module):
    """Features of a linear layer and channels of a conv are flattened to one axis, which one layer reads."""

    def __init__(self, swaps: bool) -> None:
        super().__init__()
        self.conv, self.up, self.both = nn.Conv1d(3, 12, 1), nn.Linear(6, 8), nn.Linear(96, 7)
        self.of_features = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        self.of_channels = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
        self.swaps = swaps

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.up(self.conv(x)))
        flat = self.both((x.transpose(1, 2) if self.swaps else x).flatten(1))
        return flat, self.of_features(x.mean(1)), self.of_channels(x.mean(2))


@pytest.mark.parametrize("swaps", [False, True])
def test_channels_that_share_an_axis_with_others_stay_in_their_order(swaps: bool) -> None:
    graph = masked(fxprune.trace(Apart(swaps).eval(), torch.randn(2, 3, 6)), 3, search="random")
    result = assert_rewrites(graph, passes.PartitionLinear(), count=4)
    assert len(targets(result.graph_module)) == 2


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


@pytest.mark.parametrize("form", ["linears", "conv", "bmm"])
def test_tokens_go_through_layers(form: Any) -> None:
    graph = masked(fxprune.trace(Tokens().eval(), torch.randn(2, 5, 8)), 4)
    assert_rewrites(graph, passes.PartitionLinear(form=form), count=2)


def test_a_weight_that_is_not_zero_is_left() -> None:
    graph = masked(mlp(8, 12, 3))
    layer: Any = called_module(next(iter(graph.graph.find_nodes(op="call_module"))))
    layer.weight.data.add_(1.0)
    result = passes.PartitionLinear()(graph)
    assert not result.modified
    assert "not zero across its blocks" in result.declined[0].why


def test_blocks_are_found_where_nothing_noted_them() -> None:
    plain = masked(conv_head(), 3)
    for node in plain.graph.nodes:
        node.meta.pop("fxprune_weight_blocks", None)
    result = assert_rewrites(plain, passes.PartitionLinear(), count=7)
    assert {site.path: site.why for site in result.rewritten}["fc1"] == "24x48 -> 3 blocks of 8x16, as linears"


def test_features_that_nothing_joins_are_put_into_a_block() -> None:
    graph = mlp(6, 8, 3)
    layer: Any = called_module(next(iter(graph.graph.find_nodes(op="call_module"))))
    layer.weight.data.zero_()
    layer.weight.data[:3, :2] = layer.weight.data[3:6, 2:5] = 1.0  # nothing reads 5, nothing makes 6 and 7
    result = assert_rewrites(graph, passes.PartitionLinear(), count=2)
    shapes = [tuple(one.weight.shape) for one in result.graph_module.modules() if isinstance(one, nn.Linear)]
    assert sum(out for out, _ in shapes[:-1]) == 8


def test_what_does_not_go_through_all_layers_is_put_into_a_block() -> None:
    graph = mlp(10, 12, 12, 3)
    first, second = (graph.get_parameter(f"{path}.weight").data for path in ("0", "2"))
    first.zero_()
    second.zero_()
    first[:3, :3] = first[3:6, 3:6] = second[:3, :3] = second[3:6, 3:6] = 1.0
    first[6:9, 6:] = 1.0  # is not read by the second
    second[6:, 9:] = 1.0  # is of its biases alone
    result = assert_rewrites(graph, passes.PartitionLinear(), count=3)
    layers = [one for one in result.graph_module.modules() if isinstance(one, nn.Linear)]
    assert len(layers) == 2 + 2 + 1
    assert min(one.in_features for one in layers) >= 3


def test_blocks_that_leave_out_next_to_nothing_are_left() -> None:
    graph = mlp(16, 16, 3)
    weight = graph.get_parameter("0.weight").data
    weight[torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.4] = 0.0
    weight[:, 5] = weight[5] = 0.0
    weight[5, 5] = 1.0
    assert_rewrites(graph, passes.PartitionLinear(), count=0)


def test_the_blocks_of_a_layer_that_is_left_follow_its_columns() -> None:
    graph = masked(conv_head(), search="random")
    across = ~fxprune.PartitionPlan.of(graph).layers["fc2"].mask()
    graph.get_parameter("fc2.weight").data[across] = 7.0
    result = passes.PartitionLinear()(graph)
    assert [site.path for site in result.declined if "not zero across" in site.why] == ["fc2"]
    moved = fxprune.PartitionPlan.of(result.graph_module).layers["fc2"]
    weight = result.graph_module.get_parameter("fc2.weight")
    assert bool((weight[~moved.mask()] == 7.0).all())  # what would be set to zero is what lay across


def test_a_diagonal_is_sixteen_blocks_at_most() -> None:
    graph = mlp(40, 40, 3)
    layer: Any = called_module(next(iter(graph.graph.find_nodes(op="call_module"))))
    layer.weight.data.copy_(torch.eye(40))
    result = assert_rewrites(graph, passes.PartitionLinear(), count=2)
    assert sum(isinstance(one, nn.Linear) for one in result.graph_module.modules()) == 16 + 1


def test_dense_layers_are_left() -> None:
    assert_rewrites(conv_head(), passes.PartitionLinear(), count=0)


def test_frozen_parameters_stay_frozen() -> None:
    graph = masked(mlp(8, 12, 3))
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    for form in ("linears", "conv", "bmm"):
        found = passes.PartitionLinear(form=form)(graph).graph_module
        assert not any(one.requires_grad for one in found.parameters())


def random_head(seed: int) -> fx.GraphModule:
    """Return a head of random layers, with ops of each feature alone between them, maybe behind a conv."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    width, shape = int(rng.integers(4, 30)), (2, 3, 6, 6)
    behind_conv = bool(rng.integers(2))
    if behind_conv:
        layers += [nn.Conv2d(3, width, 3, int(rng.integers(1, 3))), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(int(rng.integers(1, 4))), nn.Flatten()]
        width = nn.Sequential(*layers)(torch.zeros(shape)).shape[1]
    else:
        shape = (2, width)  # type: ignore[assignment]
    for _ in range(int(rng.integers(2, 5))):
        wider = int(rng.integers(4, 30))
        between = [nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(wider), nn.PReLU(wider), nn.GELU(), nn.Tanh()]
        drawn = rng.permutation(len(between))[: int(rng.integers(0, 4))]
        layers += [nn.Linear(width, wider, bias=bool(rng.integers(2))), *(between[one] for one in drawn)]
        width = wider
    return fxprune.trace(randomized(nn.Sequential(*layers), seed), torch.randn(shape))


@pytest.mark.parametrize("seed", range(30))
def test_random_heads(seed: int) -> None:
    graph = random_head(seed)
    rng = np.random.default_rng(seed)
    search = str(rng.choice(["random", "alternating", "spectral", "min-cut"]))
    graph = masked(graph, int(rng.integers(2, 5)), search=search, seed=seed)
    form: Any = rng.choice(["linears", "conv", "bmm"])
    result = passes.PartitionLinear(form=str(form))(graph)  # type: ignore[arg-type]
    assert result.modified
    found = fxprune.verify(graph, result.graph_module, graph.meta["fxprune_example_inputs"])
    assert found.equal, str(found)
    assert found.max_relative < 1e-12
