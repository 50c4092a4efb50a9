"""Weights before they are rounded: verifying with them changes nothing that a pipeline makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune import passes
from fxprune.gates.resconv import ResConv
from fxprune.pipelines.chains import AFTER_TRAINING, insert_scales
from fxprune.rewriting.contract import Log
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet
from fxprune.weights.exact import exact, keep_exact_weights, unrounded


class Standardized(nn.Conv2d):
    """A conv that standardises its weight in forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, padding=self.padding)


def plain() -> nn.Module:
    return CifarResNet(8)


def computed() -> nn.Module:
    convs = weight_norm(nn.Conv2d(3, 8, 3, padding=1)), Standardized(8, 8, 3, padding=1)
    return nn.Sequential(convs[0], nn.BatchNorm2d(8), nn.ReLU(), convs[1], nn.BatchNorm2d(8), nn.AvgPool2d(8))


def with_linear() -> nn.Module:
    return nn.Sequential(plain(), nn.Linear(10, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [plain, computed, with_linear])
def test_the_same_bits_come_out_with_and_without_verification(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    traced = fxprune.trace(randomize(make()).to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype), check=False)
    sparse = insert_scales(traced, "all", verify=False).graph_module
    for index, layer in enumerate(layers(sparse)):
        if isinstance(layer.module, ResConv):
            layer.module.assign(scale=0.7 - 0.1 * index, shortcut=0.3)
        elif index % 2:
            layer.module.close()
    chain = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
    one, other = (fxprune.Pipeline(chain, verify=verify)(sparse).graph_module for verify in (False, True))
    state, verified = one.state_dict(), other.state_dict()
    assert state.keys() == verified.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, verified[name]), name
        assert tensor.stride() == verified[name].stride(), name
    assert one.code == other.code


def test_what_a_weight_was_before_rounding_is_told_where_it_is_asked_for() -> None:
    layer = nn.Conv2d(2, 2, 1)
    norm: Any = randomize(nn.BatchNorm2d(2)).float()
    graph = fxprune.trace(nn.Sequential(layer, norm).eval(), torch.randn(1, 2, 4, 4), check=False)
    with keep_exact_weights():
        folded = passes.FoldBatchNorm()(graph).graph_module
        weight = folded.get_parameter("0.weight")
        assert torch.equal(exact(weight), weight.double())
        with unrounded():
            told = exact(weight)
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    torch.testing.assert_close(told, layer.weight.double() * factor.reshape(-1, 1, 1, 1), rtol=1e-14, atol=0)
    assert not torch.equal(told, weight.double())
    with unrounded():
        assert torch.equal(exact(weight), weight.double())  # nothing is kept any more


def test_verification_still_compares_the_algebra() -> None:
    """Chains of roundings in bfloat16 are no difference; a wrong factor is one."""
    graph = fxprune.trace(randomize(plain()).to(torch.bfloat16), torch.randn(2, 3, 8, 8, dtype=torch.bfloat16))

    class Wrong(passes.FoldBatchNorm):
        def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
            super().rewrite(graph_module, log)
            with torch.no_grad():
                graph_module.get_parameter("conv1.weight").mul_(1.01)

    assert fxprune.Pipeline([passes.FoldBatchNorm()])(graph).max_relative < 1e-12  # type: ignore[operator]
    with pytest.raises(fxprune.FxpruneError, match="promised equal values"):
        fxprune.Pipeline([Wrong()])(graph)
