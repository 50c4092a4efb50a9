"""Attention in windows, written out by SplitAttention: torchvision's values for images of any size."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_rewrites, emitted, example, targets
from torch import fx, nn
from torch.nn import functional
from torchvision.models import swin_transformer
from torchvision.models.video import swin_transformer as video

import fxprune
from fxprune import passes

SPLIT = passes.SplitAttention()
V1, V2 = swin_transformer.ShiftedWindowAttention, swin_transformer.ShiftedWindowAttentionV2
SIZES = [(8, 8), (4, 4), (3, 3), (9, 6), (4, 11), (2, 13)]


def windows(kind: Any, shift: tuple[int, int], window: tuple[int, int] = (4, 4), **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    model = kind(8, list(window), list(shift), 2, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return fxprune.trace(nn.Sequential(model, nn.Linear(8, 3)).double().eval(), example(2, 9, 7, 8))


@pytest.mark.parametrize("kind", [V1, V2])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (0, 1), (1, 0)])
def test_values_stay_at_every_size(kind: Any, shift: tuple[int, int]) -> None:
    graph = windows(kind, shift)
    result = assert_rewrites(graph, SPLIT, count=2)
    split = result.graph_module
    assert not {"shifted_window_attention", "_get_relative_position_bias"} & set(targets(split))
    for batch, size in enumerate(SIZES, 1):
        x = example(batch, *size, 8, seed=batch)
        torch.testing.assert_close(split(x), graph(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"qkv_bias": False}, {"proj_bias": False}, {"qkv_bias": False, "proj_bias": False}]
)
@pytest.mark.parametrize("kind", [V1, V2])
def test_biases_may_lack(kind: Any, options: Any) -> None:
    assert_rewrites(windows(kind, (1, 1), **options), SPLIT, count=2)


def test_windows_need_not_be_square() -> None:
    graph = windows(V1, (1, 2), window=(2, 5))
    split = assert_rewrites(graph, SPLIT, count=2).graph_module
    x = example(2, 5, 11, 8)
    torch.testing.assert_close(split(x), graph(x), rtol=1e-12, atol=1e-12)


def test_keys() -> None:
    graph = windows(V1, (0, 0))
    split = SPLIT(graph).graph_module
    assert split.get_parameter("0.proj.weight") is graph.get_parameter("0.proj.weight")
    weight = graph.get_parameter("0.qkv.weight")
    assert torch.equal(split.get_parameter("0.k_proj.weight"), weight[8:16])
    assert "0.qkv.weight" not in split.state_dict()


def test_keys_of_version_two_have_no_bias() -> None:
    keys = set(SPLIT(windows(V2, (0, 0))).graph_module.state_dict())
    assert {"0.q_proj.bias", "0.v_proj.bias"} <= keys
    assert "0.k_proj.bias" not in keys


@pytest.mark.parametrize("which", ["attention_dropout", "dropout"])
def test_dropout_follows_the_train_flag(which: str) -> None:
    options: Any = {which: 0.5}
    graph = windows(V1, (1, 1), **options)
    split = assert_rewrites(graph, SPLIT, count=2).graph_module
    x = example(2, 8, 8, 8)
    assert torch.equal(split(x), split(x))
    split.train()
    assert not torch.equal(split(x), split(x))


def test_without_dropout_train_mode_computes_the_same() -> None:
    graph = windows(V2, (1, 1))
    split = SPLIT(graph).graph_module.train()
    x = example(2, 8, 8, 8)
    torch.testing.assert_close(split(x), graph.train()(x), rtol=1e-12, atol=1e-12)


class Tied(nn.Module):
    """Attention in windows with weights that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.own = V1(8, [4, 4], [0, 0], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.own(x), self.own.proj.weight)


def test_shared_weights_are_declined() -> None:
    graph = fxprune.trace(Tied().double().eval(), example(2, 8, 8, 8))
    declined = assert_rewrites(graph, SPLIT, count=1).declined  # the biases are looked up all the same
    assert "proj_weight is read by others too" in declined[0].why


def test_windows_over_time_are_declined() -> None:
    model = video.ShiftedWindowAttention3d(8, [2, 4, 4], [0, 0, 0], 2)
    graph = fxprune.trace(model.double().eval(), example(2, 4, 8, 8, 8))
    assert "over time" in assert_rewrites(graph, SPLIT, count=0).declined[0].why


@cache
def swin() -> fx.GraphModule:
    torch.manual_seed(0)
    model = swin_transformer.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], num_classes=5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return fxprune.trace(model.double().eval(), example(2, 3, 40, 32))


def test_a_whole_network_is_emitted_and_read_back(tmp_path: Path) -> None:
    split = assert_rewrites(swin(), SPLIT, count=6).graph_module
    emitted(split, tmp_path, example(1, 3, 20, 36))
    assert 'register_buffer("scale' not in (tmp_path / "model.py").read_text()


def test_head_sizes_and_hidden_widths_are_cut() -> None:
    split = SPLIT(swin()).graph_module
    gated = passes.InsertChannelGate()(split).graph_module
    for number, gate in enumerate(fxprune.gates_of(gated)):
        gate.assign(scale=(torch.arange(gate.width) + number).remainder(2).double())
    result = fxprune.Pipeline([passes.RemoveChannels(), passes.FuseChannelGate()])(gated)
    cut = result.graph_module
    assert cut.get_submodule("features.1.0.attn.q_proj").weight.shape == (8, 16)
    for size in ((40, 32), (16, 16), (20, 52)):
        x = example(3, 3, *size)
        torch.testing.assert_close(cut(x), gated(x), rtol=1e-11, atol=1e-11)
