"""Cutting where layers share weights or scales, and where a conv has groups: what is left is the same in any turn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

import fxprune
from fxprune.pipelines.chains import insert_scales

IMAGES = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


class Twice(nn.Module):
    """Two branches of the same two convs, which share their scales of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.first, self.second = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.second(torch.relu(self.first(x)))
        x = x + self.second(torch.tanh(self.first(x)))
        y: torch.Tensor = self.head(torch.relu(self.last(x)).mean((2, 3)))
        return y


class Grouped(nn.Module):
    """A conv of four groups: the same channel of each of them goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        y: torch.Tensor = self.head(torch.relu(self.last(x)).mean((2, 3)))
        return y


def shrinking(kind: type[nn.Module], what: str) -> tuple[fx.GraphModule, Any]:
    torch.manual_seed(0)
    graph = insert_scales(fxprune.trace(kind().double(), IMAGES), what=what).graph_module.train()
    return graph, fxprune.ProximalL1(graph, 0.0)


def sgd(graph: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(graph.parameters(), lr=0.01, momentum=0.9)


def stepped(graph: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    graph(IMAGES).square().mean().backward()
    optimizer.step()


def averages_of(graph: nn.Module) -> AveragedModel:
    return AveragedModel(graph, avg_fn=lambda mean, now, _: (mean + now) / 2, use_buffers=True)


def narrowed(shrink: Any, path: str, places: list[int]) -> None:
    """Close channels where no gate of a layer is open: around one they would stay."""
    for layer in shrink.layers.values():
        layer.rest()
    shrink.channels[path].close_classes(places)


def test_scales_that_two_branches_share_go_with_the_last_of_them_in_any_number_of_cuts() -> None:
    made = []
    for turns in ([["branch_scale_1"], ["branch_scale"]], [["branch_scale_1", "branch_scale"]]):
        graph, shrink = shrinking(Twice, "branches,channels")
        optimizer = sgd(graph)
        narrowed(shrink, "first_channels", [1, 4])
        graph, optimizer = shrink.cut(optimizer)
        assert graph.get_parameter("first.weight").shape[0] == 8
        for paths in turns:
            for path in paths:
                shrink.layers[path].close()
            graph, optimizer = shrink.cut(optimizer)
        made.append((graph, shrink.state_dict()["cut"]["channels"]))
    assert made[0][1] == made[1][1] == {"first_channels": [1, 4]}
    keys = [{key: one.shape for key, one in graph.state_dict().items()} for graph, _ in made]
    assert keys[0] == keys[1]
    assert not any(key.startswith("first") for key in keys[0])
    again = shrinking(Twice, "branches,channels")[1]
    again.load_state_dict(shrink.state_dict())
    again.graph_module.load_state_dict(graph.state_dict())
    assert torch.equal(again.graph_module(IMAGES), graph(IMAGES))


def test_averages_share_what_the_graph_shares() -> None:
    graph, shrink = shrinking(Twice, "branches,channels")
    optimizer, averaged = sgd(graph), averages_of(graph)
    narrowed(shrink, "first_channels", [0, 3])
    averaged.update_parameters(graph)
    averaged.update_parameters(graph)
    uncut = copy.deepcopy(averaged)
    graph, optimizer = shrink.cut(optimizer)
    averaged = shrink.copies(averaged)
    shapes = [one.shape for one in graph.parameters()]
    assert [one.shape for one in averaged.parameters()] == shapes  # which torch takes in turn, one by one
    stepped(graph, optimizer)
    before = averaged.module.get_parameter("first.weight").clone()
    averaged.update_parameters(graph)
    mean = (before + graph.get_parameter("first.weight")) / 2
    torch.testing.assert_close(averaged.module.get_parameter("first.weight"), mean, rtol=1e-12, atol=1e-12)
    first = averaged.module.get_parameter("first_scaled.layer.weight")
    assert first is averaged.module.get_parameter("first_scaled_1.layer.weight")
    assert uncut.module.get_parameter("first.weight").shape[0] == 10


def test_averages_stay_on_their_device() -> None:
    graph, shrink = shrinking(Twice, "branches,channels")
    elsewhere = copy.deepcopy(graph).to("meta")
    narrowed(shrink, "first_channels", [0])
    shrink.cut(sgd(graph))
    followed = shrink.copies(elsewhere)
    readers = [one.index for one in followed.modules() if isinstance(getattr(one, "index", None), torch.Tensor)]
    assert readers
    assert all(one.is_meta for one in (*followed.state_dict().values(), *readers))


@pytest.mark.parametrize("gone", [[0], [0, 3]])
def test_the_same_channel_of_each_group_goes_until_two_are_left(gone: list[int]) -> None:
    graph, shrink = shrinking(Grouped, "channels")
    optimizer = sgd(graph)
    stepped(graph, optimizer)
    narrowed(shrink, "stem_channels", gone)
    uncut = copy.deepcopy(graph)
    cut, optimizer = shrink.cut(optimizer)
    assert cut.get_parameter("stem.weight").shape[0] == 4 * (4 - len(gone))
    assert cut.get_parameter("grouped.layer.weight").shape == (16, 4 - len(gone), 3, 3)
    torch.testing.assert_close(cut(IMAGES), uncut(IMAGES), rtol=1e-9, atol=1e-9)
    narrowed(shrink, "grouped_channels", [0])
    uncut = copy.deepcopy(cut)
    cut, optimizer = shrink.cut(optimizer)
    torch.testing.assert_close(cut(IMAGES), uncut(IMAGES), rtol=1e-9, atol=1e-9)
    stepped(cut, optimizer)


class Removed(nn.Module):
    """A conv of four groups that can go: its channels are then those of the stem, which it tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.last, self.head = nn.Conv2d(16, 12, 1), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        y: torch.Tensor = self.head(torch.relu(self.last(x)).mean((2, 3)))
        return y


def test_what_a_removed_conv_tied_goes_whole_with_its_scale() -> None:
    graph, shrink = shrinking(Removed, "convs,channels")
    narrowed(shrink, "grouped_channels", [2, 3])
    narrowed(shrink, "stem_channels", [2, 3])
    shrink.layers["grouped"].close()
    uncut = copy.deepcopy(graph)
    cut, _ = shrink.cut(sgd(graph))
    assert cut.get_parameter("stem.weight").shape[0] == 8  # two of each group's four, though no group is left
    torch.testing.assert_close(cut(IMAGES), uncut(IMAGES), rtol=1e-9, atol=1e-9)
    again = shrinking(Removed, "convs,channels")[1]
    again.load_state_dict(shrink.state_dict())
    again.graph_module.load_state_dict(cut.state_dict())
    assert torch.equal(again.graph_module(IMAGES), cut(IMAGES))


class Depthwise(nn.Module):
    """A depthwise conv, which can go, whole or with some of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.relu(self.deep(torch.relu(self.stem(x)))).mean((2, 3)))
        return y


def test_a_layer_that_a_cut_made_narrower_and_the_next_took_out_is_told_as_closed() -> None:
    graph, shrink = shrinking(Depthwise, "convs,channels")
    optimizer = sgd(graph)
    narrowed(shrink, "stem_channels", [0, 1, 2])
    graph, optimizer = shrink.cut(optimizer)
    assert graph.get_submodule("deep").conv.in_channels == 5
    shrink.layers["deep"].close()
    left, uncut = shrink.left, copy.deepcopy(graph)
    assert shrink.closed == ["deep"]
    graph, optimizer = shrink.cut(optimizer)
    assert shrink.closed == ["deep"]
    assert shrink.left == left
    torch.testing.assert_close(graph(IMAGES), uncut(IMAGES), rtol=1e-9, atol=1e-9)


def test_zeros_close_beside_scales_that_went_with_their_branch_and_each_is_told_once() -> None:
    graph, shrink = shrinking(Twice, "branches,channels")
    optimizer = sgd(graph)
    narrowed(shrink, "first_channels", [0, 1])
    for path in ("branch_scale", "branch_scale_1"):
        shrink.layers[path].close()
    graph, optimizer = shrink.cut(optimizer)
    assert repr(shrink).startswith("ProximalL1(strength 0, step 0: 4 of 28 scales are 0,")
    with torch.no_grad():
        shrink.channels["last_channels"].wake()
        shrink.channels["last_channels"].gate[3] = 0
    shrink.close_zeros()
    assert shrink.closed_channels == {"first_channels": [0, 1], "last_channels": [3]}
    assert shrink.cut(optimizer)[0].get_parameter("last.layer.weight").shape[0] == 7


def test_what_is_no_module_is_refused_as_a_copy() -> None:
    _, shrink = shrinking(Twice, "channels")
    with pytest.raises(fxprune.FxpruneError, match=r"^ProximalL1.copies takes a sequence of a Module for copies"):
        shrink.copies(shrink.graph_module, 3)
