"""Chains of linear layers: what is one, what its units are, and why other layers are in none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from partition_nets import conv_head, mlp
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.structures.channels.groups import Channels
from fxprune.structures.partitions.chains import find_chains


def reasons(graph: fx.GraphModule) -> dict[str, str]:
    return {str(node.target): why for node, why in find_chains(Channels(graph)).reasons.items()}


def traced(*layers: nn.Module, width: int = 8) -> fx.GraphModule:
    return fxprune.trace(nn.Sequential(*layers).eval(), torch.randn(2, width))


def test_a_head_behind_a_conv_is_entered_by_channels() -> None:
    ((chain,), others) = find_chains(Channels(conv_head()))
    assert chain.paths == ("fc1", "fc2", "fc3")
    assert chain.enters_by == "trunk.0"
    assert chain.entry.tolist() == np.repeat(np.arange(12), 4).tolist()
    assert chain.widths == (12, 24, 18)
    assert others == {}


def test_features_of_an_input_enter_one_by_one() -> None:
    ((chain,), _) = find_chains(Channels(mlp(6, 8, 3)))
    assert chain.enters_by == ""
    assert chain.entry.tolist() == list(range(6))


def test_channels_that_lie_apart_are_one_unit() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 5, 1), nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))

    ((chain,), _) = find_chains(Channels(fxprune.trace(Last().eval(), torch.randn(2, 3, 2, 2))))
    assert chain.entry.tolist() == list(range(5)) * 4
    assert chain.enters_by == "conv"


@pytest.mark.parametrize(
    ("between", "width", "why"),
    [
        (nn.LayerNorm(6), 6, "its statistics are of all channels"),
        (nn.Softmax(1), 6, "mixes all channels"),
        (nn.Unflatten(1, (2, 3)), 3, "its features are not all channels, each another one"),
    ],
)
def test_what_mixes_features_ends_a_chain(between: nn.Module, width: int, why: str) -> None:
    found = reasons(traced(nn.Linear(8, 6), between, nn.Linear(width, 4)))
    assert set(found) == {"0", "2"}
    assert why in found["0"]
    assert "an output of the network" in found["2"]


def test_a_head_of_one_layer_is_no_chain() -> None:
    assert "an output of the network" in reasons(traced(nn.Linear(8, 6)))["0"]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(x))
        return self.one(x), self.two(x)


def test_a_layer_read_elsewhere_is_in_none() -> None:
    assert reasons(fxprune.trace(TwoHeads().eval(), torch.randn(2, 8)))["body"] == "2 layers read it"


def test_tied_weights_are_in_none() -> None:
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.weight = one.weight
    found = reasons(traced(one, nn.ReLU(), two, nn.ReLU(), nn.Linear(8, 2)))
    assert "tied to another layer's" in found["0"]
    assert "tied to another layer's" in found["2"]


def test_a_shared_layer_is_in_none() -> None:
    layer = nn.Linear(8, 8)
    assert "shared by 2 call sites" in reasons(traced(layer, nn.ReLU(), layer))["0"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.a(x)
        return self.c(x + self.b(torch.relu(x)))


def test_summed_features_are_those_of_both_layers() -> None:
    found = reasons(fxprune.trace(Residual().eval(), torch.randn(2, 8)))
    assert found["a"] == "its features are those of b too"
    assert found["b"] == "its features are those of a too"


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(torch.relu(nn.functional.linear(x, self.weight)))


def test_a_functional_layer_is_in_one_once_it_is_frozen() -> None:
    graph = fxprune.trace(Functional().eval(), torch.randn(2, 8))
    assert "apply freeze-weights first" in " ".join(reasons(graph).values())
    frozen = fxprune.passes.FreezeWeights()(graph).graph_module
    assert len(find_chains(Channels(frozen)).chains) == 1


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def test_a_transformers_mlp_is_a_chain() -> None:
    ((chain,), _) = find_chains(Channels(fxprune.trace(Mlp().eval(), torch.randn(2, 3, 8))))
    assert (chain.paths, chain.widths, chain.enters_by) == (("up", "down"), (8, 16), "")


def test_what_is_mixed_already_enters_feature_by_feature() -> None:
    graph = traced(nn.Softmax(1), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 4))
    assert find_chains(Channels(graph)).chains[0].widths == (8, 6)


class Grouped(nn.Module):
    """Channels of a conv of two or more groups enter: the same ones of each group go together, or none does."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.head = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.conv(torch.relu(x)).flatten(1))


@pytest.mark.parametrize("conv", [nn.Conv2d(8, 16, 1, groups=2), nn.ConvTranspose2d(8, 16, 1, groups=8)])
def test_features_enter_one_by_one_where_a_channel_goes_with_others_of_its_layer(conv: nn.Module) -> None:
    graph = fxprune.trace(Grouped(conv).eval(), torch.randn(2, 8, 2, 2))
    ((chain,), _) = find_chains(Channels(graph))
    assert chain.enters_by == ""
    assert chain.widths == (64, 12)
    masked = passes.MaskPartition(blocks=5)(graph).graph_module
    x = torch.randn(3, 8, 2, 2)
    assert torch.allclose(passes.PartitionLinear()(masked).graph_module(x), masked(x), atol=1e-6)
