"""FuseResConv: the algebra in float64, with and without norm, in both parametrisations."""

from __future__ import annotations

import pytest
from helpers import Wrapped, assert_rewrites, example, targets, tiny, traced, with_scales
from torch import nn

from fxprune import passes
from fxprune.facts.layers import resconvs


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
