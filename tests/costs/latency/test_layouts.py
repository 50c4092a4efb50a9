"""Layouts: images and weights of convs lie as is asked for, all else as the ops make it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune.costs.latency.conditions import Conditions, Layout
from fxprune.costs.latency.layouts import in_layout_of, inputs_in
from fxprune.costs.latency.network_ops import ops_of
from fxprune.ir.nodes import example_inputs_of
from fxprune.pipelines.chains import insert_scales
from fxprune.pruning.latency_model import LatencyModel


class Mixed(nn.Module):
    """Convs, a block on permuted values as ConvNeXt has it, attention, a mask of four axes, a computed conv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.up, self.down, self.qkv = (
            nn.LayerNorm(8),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
            nn.Linear(8, 24),
        )
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.table = nn.Parameter(torch.randn(1, 2, 36, 36))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the convs and what the attention make."""
        x = functional.conv2d(functional.relu(self.stem(x)), self.weight, padding=1)
        x = x + self.down(functional.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(tokens.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask + self.table)
        return functional.relu(self.last(x)), y


def mixed() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(Mixed().eval(), (torch.randn(3, 3, 6, 6), torch.randn(3, 2, 36, 36)))


def order(value: torch.Tensor) -> list[int]:
    """Return the axes of a tensor from the outermost in memory to the innermost; parts of wider ones have gaps."""
    strides = value.stride()
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_ops_alone_read_what_they_read_in_the_network(layout: Layout) -> None:
    graph, conditions = mixed(), Conditions(batch=3, layout=layout)
    ops = ops_of(graph, 3, layout)
    laid_out = in_layout_of(graph, layout)
    run = fx.Interpreter(laid_out, garbage_collect_values=False)
    run.run(*inputs_in(laid_out, example_inputs_of(laid_out), layout))
    made = {node.name: value for node, value in run.env.items()}
    compared = 0
    for op in ops:
        read = [made[node.name] for node in op.node.all_input_nodes]
        _, alone = op.workload.make(op.workload.widths, conditions)
        for mine, real in zip(alone, read, strict=False):
            assert (op.node.name, mine.shape, order(mine)) == (op.node.name, real.shape, order(real))
            compared += 1
    assert compared >= 12


def test_weights_of_convs_alone_are_laid_out_and_the_users_stay() -> None:
    graph = mixed()
    found = in_layout_of(graph, "channels_last")
    last: Any = {"memory_format": torch.channels_last}
    assert all(one.is_contiguous() for one in graph.parameters())
    assert [name for name, one in found.named_parameters() if one.dim() == 4 and one.is_contiguous(**last)] == [
        "weight",
        "stem.weight",
        "last.weight",
    ]
    assert found.get_parameter("table").is_contiguous()
    assert in_layout_of(found, "channels_last") is found
    image, mask = inputs_in(graph, example_inputs_of(graph), "channels_last")
    assert image.is_contiguous(**last)
    assert mask.is_contiguous()


def test_volumes_have_a_layout_too() -> None:
    convs = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 4, 1))
    graph = fxprune.trace(convs.eval(), torch.randn(1, 3, 6, 6, 6))
    conditions = Conditions(layout="channels_last")
    for op in ops_of(graph, 1, "channels_last"):
        network, (value,) = op.workload.make(op.workload.widths, conditions)
        assert value.is_contiguous(memory_format=torch.channels_last_3d)
        network(value)
    model = LatencyModel.measure(graph, layout="channels_last", measure=lambda network, inputs: 1.0, cache=False)
    assert model.measured(graph).milliseconds == 1.0


def test_images_of_whole_numbers_stay_whole_numbers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.conv(x.float() / 255)
            return found

    graph = fxprune.trace(Scaled().eval(), torch.randint(0, 255, (1, 3, 6, 6), dtype=torch.uint8))
    with pytest.raises(fxprune.FxpruneError, match=r"the network does not run under eager, .*bfloat16"):
        LatencyModel.measure(graph, dtype="bfloat16", cache=False)
    (image,) = inputs_in(graph, example_inputs_of(graph), "channels_last")
    assert image.dtype == torch.uint8
    assert image.is_contiguous(memory_format=torch.channels_last)


class Permuted(nn.Module):
    """A residual branch of linear layers on (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        y: torch.Tensor = x + self.down(functional.gelu(self.up(x)))
        return y


@pytest.mark.parametrize("what", [None, "branches", "channels"])
def test_what_gates_read_is_no_image_by_that(what: str | None) -> None:
    x = torch.randn(2, 5, 6, 8)
    graph = fxprune.trace(Permuted().eval(), x)
    if what is not None:
        graph = insert_scales(graph, what=what, verify=False).graph_module
    assert inputs_in(graph, (x,), "channels_last")[0].stride() == x.stride()


@pytest.mark.parametrize("what", [None, "branches", "convs"])
def test_images_that_gates_read_are_laid_out(what: str | None) -> None:
    x = torch.randn(2, 8, 6, 5)
    graph = fxprune.trace(Beside().eval(), x)
    if what is not None:
        graph = insert_scales(graph, what=what, verify=False).graph_module
    laid_out = inputs_in(graph, (x,), "channels_last")[0]
    assert laid_out.is_contiguous(memory_format=torch.channels_last)


class Beside(nn.Module):
    """A conv in a residual branch on images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        y: torch.Tensor = x + self.conv(functional.relu(x))
        return y
