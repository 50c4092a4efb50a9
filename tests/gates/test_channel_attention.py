"""ChannelAttention: its numbers by hand, its shape by the number of channels, and how it is trained and cast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fxprune.gates.channel_attention import ChannelAttention


def test_a_channel_is_multiplied_by_what_the_means_say() -> None:
    gate = ChannelAttention(2).double()
    first, second = (one for one in gate.attention if isinstance(one, nn.Linear))
    with torch.no_grad():
        for layer, weight, bias in ((first, [[1.0, 2.0]], [0.5]), (second, [[1.0], [-1.0]], [0.0, 0.25])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    x = torch.tensor([[[[1.0, 3.0]], [[-1.0, 1.0]]]], dtype=torch.float64)  # means 2 and 0: 2.5 is hidden
    gates = torch.tensor([2.5, -2.25], dtype=torch.float64).sigmoid().view(1, 2, 1, 1)
    torch.testing.assert_close(gate(x), x * gates)


@pytest.mark.parametrize(
    ("channels", "hidden", "has_bias"), [(8, 1, True), (16, 1, True), (17, 1, False), (64, 4, False)]
)
def test_the_linear_layers_are_those_of_the_code(channels: int, hidden: int, has_bias: bool) -> None:
    gate = ChannelAttention(channels)
    first, second = (one for one in gate.attention if isinstance(one, nn.Linear))
    assert (tuple(first.weight.shape), tuple(second.weight.shape)) == ((hidden, channels), (channels, hidden))
    assert (first.bias is not None, second.bias is not None) == (has_bias, has_bias)
    assert gate.macs == 2 * channels * hidden


@pytest.mark.parametrize("size", [(5,), (5, 4), (3, 4, 5)])
def test_space_has_any_number_of_axes(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 20, *size)
    assert ChannelAttention(20)(x).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_can_be_cast(dtype: torch.dtype) -> None:
    gate = copy.deepcopy(ChannelAttention(20)).to(dtype)
    assert gate(torch.randn(2, 20, 4, 4, dtype=dtype)).dtype is dtype


def test_it_trains_under_autocast_and_keeps_the_order_of_memory() -> None:
    network = nn.Sequential(nn.Conv2d(3, 20, 3), ChannelAttention(20)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.dtype is torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.float().square().mean().backward()
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in network.parameters())
