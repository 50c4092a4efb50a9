"""FuseResConv: the algebra in float64, with and without norm, in both parametrisations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Wrapped, assert_rewrites, example, resconvs, targets, tiny, traced, with_scales
from torch import fx, nn

import fxprune
from fxprune import passes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.5, 1.5), (-0.7, 0.3), (0.0, 1.0), (1.0, -2.0), (0.0, 0.0)])
def test_values_are_kept(bias: bool, with_norm: bool, scales: tuple[float, float]) -> None:
    layers: list[nn.Module] = [nn.Conv2d(4, 4, 3, padding=1, bias=bias)]
    layers += [nn.BatchNorm2d(4)] * with_norm
    graph = with_scales(traced(nn.Sequential(*layers), example(2, 4, 6, 6)), scales)
    result = assert_rewrites(graph, passes.FuseResConv(), count=1)
    assert targets(result.graph_module) == ["Conv2d"]
    assert (result.graph_module.get_submodule("0").bias is None) == (not bias and not with_norm)


def test_the_free_parametrisation() -> None:
    sparse = passes.InsertResConv(shortcut=1.0, parametrization="free")(tiny()).graph_module
    assert_rewrites(sparse, passes.FuseResConv(), count=4)


def test_names_and_keys_are_the_original_ones() -> None:
    fused = passes.FuseResConv()(with_scales(tiny(), (0.5, 0.5))).graph_module
    assert {"block1.conv1.weight", "block1.conv1.bias", "block2.conv2.weight"} <= set(fused.state_dict())


def test_a_resconv_called_twice_is_declined() -> None:
    sparse = with_scales(traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), example(2, 4, 6, 6)), (0.5, 0.5))
    ((_, layer),) = resconvs(sparse)
    twice = traced(Wrapped(lambda m, x: m.layer(m.layer(x)), layer=nn.Identity()), example(2, 4, 6, 6))
    twice.layer = layer
    result = passes.FuseResConv()(twice)
    assert not result.modified
    assert "2 call sites" in result.declined[0].why


def reshaping(layer: nn.Module, x: torch.Tensor, shortcut: float = 1.5) -> fx.GraphModule:
    one = passes.InsertResConv(shortcut=shortcut, parametrization="free", include_reshaping=True)
    return one(traced(nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels)), x)).graph_module  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [(4, 4, 1), (3, 6, 1), (6, 4, 1), (4, 8, 4), (4, 8, 2), (8, 4, 2), (6, 3, 3)])
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 4, "stride": 4},
        {"kernel_size": 5, "padding": 2, "stride": 3},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 2},
        {"kernel_size": 3, "padding": 1, "stride": 3, "padding_mode": "reflect"},
        {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2), "padding_mode": "circular"},
        {"kernel_size": 4, "padding": 1, "stride": 2, "padding_mode": "replicate"},
        {"kernel_size": 7, "padding": 3, "stride": 2},
    ],
)
def test_reshaping_layers_are_fused_exactly(channels: tuple[int, int, int], geometry: dict[str, Any]) -> None:
    before, after, groups = channels
    torch.manual_seed(0)
    graph = reshaping(nn.Conv2d(before, after, groups=groups, **geometry), example(2, before, 11, 11))
    fused = passes.FuseResConv()(graph)
    assert targets(fused.graph_module) == ["Conv2d"]
    for other in (11, 8, 9, 10):
        found = fxprune.verify(graph, fused.graph_module, example(2, before, other, other), tolerance=1e-12)
        assert found.equal, str(found)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("channels", [(3, 6), (6, 3)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_layers_that_change_only_the_channels_are_fused_exactly(
    channels: tuple[int, int], kernel: int, padding: str
) -> None:
    graph = reshaping(nn.Conv2d(*channels, kernel, padding=padding), example(2, channels[0], 7, 7))
    assert_rewrites(graph, passes.FuseResConv(), count=1)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_reshaping_layers_of_other_dimensions(kind: type[nn.Conv1d | nn.Conv3d]) -> None:
    axes = 1 if kind is nn.Conv1d else 3
    model = nn.Sequential(kind(4, 6, 3, padding=1, stride=2), nn.ReLU())
    one = passes.InsertResConv(shortcut=0.5, parametrization="free", include_reshaping=True)
    for x in (example(2, 4, *[6] * axes), example(4, *[6] * axes)):
        assert_rewrites(one(traced(model, x)).graph_module, passes.FuseResConv(), count=1)


def test_the_partial_identity_reads_every_second_element_of_the_first_channels() -> None:
    graph = reshaping(nn.Conv2d(3, 5, 3, padding=1, stride=2), example(1, 3, 7, 7), shortcut=1.0)
    layer = graph.get_submodule("0")
    assert isinstance(layer, fxprune.ResConv)
    layer.assign(scale=0.0)
    x = example(1, 3, 7, 7)
    y = graph(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()
