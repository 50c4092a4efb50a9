"""SplitResConv: conv and norm as they were, the scale in the norm; what has a shortcut stays for FuseResConv."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import Wrapped, assert_rewrites, example, randomize, resconvs, targets, tiny, traced, with_scales
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes

CHAIN = [passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING_KEEPING_NORMS]


@pytest.mark.parametrize("scale", [1.0, 0.5, -0.7, 0.0])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_scale_is_in_the_norm(scale: float, affine: bool, bias: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4, affine=affine))
    graph = with_scales(traced(model, example(2, 4, 6, 6)), (scale, 0.0))
    result = assert_rewrites(graph, passes.SplitResConv(), count=1)
    assert targets(result.graph_module) == ["Conv2d", "BatchNorm2d"]
    assert {"0.weight", "1.running_mean"} <= set(result.graph_module.state_dict())


@pytest.mark.parametrize(
    ("layer", "norm", "size"),
    [
        (nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4), (2, 4, 5, 5, 5)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4, momentum=None), (2, 4, 6, 6)),
    ],
)
def test_other_layers(layer: nn.Module, norm: nn.Module, size: tuple[int, ...]) -> None:
    graph = with_scales(traced(nn.Sequential(layer, norm), example(*size)), (0.5, 0.0))
    assert_rewrites(graph, passes.SplitResConv(), count=1)


def test_the_names_and_keys_are_those_of_the_model() -> None:
    graph = tiny()
    split = passes.SplitResConv()(with_scales(graph, (0.5, 0.0))).graph_module
    assert set(split.state_dict()) == set(graph.state_dict())
    split.load_state_dict(graph.state_dict())
    assert torch.equal(split(example(2, 3, 8, 8)), graph(example(2, 3, 8, 8)))


def test_what_was_never_scaled_is_the_very_same_layer() -> None:
    graph = tiny()
    split = passes.SplitResConv()(passes.InsertResConv()(graph).graph_module).graph_module
    for path in ("block1.conv1", "block1.bn1"):
        assert split.get_submodule(path) is graph.get_submodule(path)


def test_conv_and_norm_stand_for_what_they_were() -> None:
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), example(2, 4, 6, 6))
    result = passes.SplitResConv()(with_scales(graph, (0.5, 0.0)))
    entries = {change.before[0].name: change for change in fxprune.diff(graph, result.graph_module).changes}
    assert [change.kind for name, change in entries.items() if name in ("_0", "_1")] == ["unchanged", "changed"]


def test_a_shortcut_is_declined_and_fused_by_the_chain() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    graph = with_scales(traced(model, example(2, 4, 6, 6)), (0.5, 0.25))
    declined = assert_rewrites(graph, passes.SplitResConv(), count=0).declined
    assert "its shortcut is 0.25" in declined[0].why
    finished = fxprune.Pipeline(CHAIN)(graph)
    assert targets(finished.graph_module) == ["Conv2d", "ReLU", "Conv2d"]
    assert any(site.path == "0" and "shortcut 0.25" in site.why for site in finished.rewritten)


def test_convs_without_a_norm_are_left_to_fusing() -> None:
    graph = with_scales(traced(nn.Sequential(nn.Conv2d(4, 4, 1)), example(2, 4, 6, 6)), (0.5, 0.0))
    assert not passes.SplitResConv()(graph).declined
    assert targets(fxprune.Pipeline(CHAIN)(graph).graph_module) == ["Conv2d"]


class FunctionalConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(functional.conv2d(x, self.weight, padding=1))
        return y


def test_a_functional_conv_gets_a_norm_beside_it() -> None:
    graph = with_scales(traced(FunctionalConv(), example(2, 4, 6, 6)), (0.5, 0.0))
    result = assert_rewrites(graph, passes.SplitResConv(), count=1)
    assert targets(result.graph_module) == ["Conv2d", "BatchNorm2d"]


def test_a_norm_that_took_its_place_later() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    graph = with_scales(traced(model, example(2, 4, 6, 6)), (0.5, 0.0))
    ((_, layer),) = resconvs(graph)
    layer.norm = nn.GroupNorm(2, 4).double()
    assert "does not take its scale" in passes.SplitResConv()(graph).declined[0].why
    layer.norm = nn.Identity()
    assert not passes.SplitResConv()(graph).declined


def test_a_resconv_called_twice_is_declined() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    ((_, layer),) = resconvs(with_scales(traced(model, example(2, 4, 6, 6)), (0.5, 0.0)))
    twice = traced(Wrapped(lambda m, x: m.layer(m.layer(x)), layer=nn.Identity()), example(2, 4, 6, 6))
    twice.layer = layer
    assert "2 call sites" in passes.SplitResConv()(twice).declined[0].why


def test_in_train_mode_it_computes_what_the_scaled_network_does() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    graph = with_scales(fxprune.trace(model, example(2, 4, 6, 6)), (0.5, 0.0))
    split = copy.deepcopy(passes.SplitResConv()(graph).graph_module)
    x = example(8, 4, 6, 6)
    torch.testing.assert_close(split.train()(x), copy.deepcopy(graph).train()(x), rtol=1e-12, atol=1e-12)


def test_branch_scales_go_into_the_last_norm_and_left_over_factors_into_the_next_conv() -> None:
    graph = fxprune.insert_scales(tiny()).graph_module
    for gate in fxprune.gates_of(graph):
        gate.assign(scale=0.5)
    closed = next(gate for gate in fxprune.gates_of(graph) if gate.kind == "conv")
    closed.assign(scale=0.0, shortcut=0.5)
    finished = fxprune.Pipeline(CHAIN)(graph).graph_module
    assert targets(finished).count("BatchNorm2d") == targets(tiny()).count("BatchNorm2d") - 1
    assert not {"mul", "ResConv", "BranchScale"} & set(targets(finished))
