"""Which ops take time, whatever form the graph is in, and what their widths are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import Wrapped
from latency_helpers import small_graph
from torch import nn
from torch.nn import functional

import fxprune
from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.network_ops import ops_of, ops_of_all
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.errors import FxpruneError
from fxprune.training.cifar_resnet import CifarResNet


def told(ops: list[TimedOp]) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.workload.family, one.workload.widths) for one in ops]


def traced(model: nn.Module, *shape: int) -> list[TimedOp]:
    return ops_of(fxprune.trace(model.eval(), torch.randn(*shape)), shape[0])


def test_what_is_timed_and_along_which_axes() -> None:
    ops = ops_of(small_graph(), 1)
    names = [(one.node.name, one.workload.widths) for one in ops]
    assert names == [
        ("stem", (3, 32)), ("relu", (32,)), ("wide", (32, 48)), ("relu_1", (48,)), ("depth", (48,)), ("relu6", (48,)),
        ("narrow", (48, 32)), ("add", (32,)), ("same", (32, 32)), ("relu_2", (32,)), ("adaptive_avg_pool2d", (32,)),
        ("head", (32, 10)),
    ]  # fmt: skip
    axes = {one.node.name: [(node.name, axis) for node, axis in one.axes] for one in ops}
    assert axes["wide"] == [("relu", 1), ("wide", 1)]
    assert axes["depth"] == [("depth", 1)]
    assert axes["add"] == [("add", 1)]
    assert axes["head"] == [("dropout", 1), ("head", 1)]
    assert all("bias=True" in one.workload.family for one in ops if "conv2d" in one.workload.family)


@pytest.mark.parametrize("model", ["small", "resnet"])
def test_the_same_ops_whatever_form_the_graph_is_in(model: str) -> None:
    graph = small_graph() if model == "small" else fxprune.trace(CifarResNet(8).eval(), torch.randn(1, 3, 16, 16))
    expected = told(ops_of(graph, 1))
    gated = fxprune.insert_scales(graph, what="all", verify=False).graph_module
    assert told(ops_of(gated, 1)) == expected
    plain = fxprune.Pipeline(fxprune.AFTER_TRAINING, verify=False)(gated).graph_module
    assert told(ops_of(plain, 1)) == expected


def test_a_batch_other_than_the_traced_one() -> None:
    graph = small_graph()
    assert "4xc0x8x8" in ops_of(graph, 4)[0].workload.family
    assert told(ops_of(fxprune.trace(graph, torch.randn(4, 3, 8, 8)), 4)) == told(ops_of(graph, 4))


def test_inputs_that_share_no_batch() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    graph = fxprune.trace(Two(), (torch.randn(2, 3), torch.randn(1, 3)))
    with pytest.raises(FxpruneError, match="share no first dimension"):
        ops_of(graph, 4)


def test_functional_layers_are_the_same_work() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(x, self.weight, self.bias, stride=(2, 2), padding=(1, 1))

    layer = traced(nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1)), 1, 4, 8, 8)
    assert told(traced(Functional(), 1, 4, 8, 8)) == told(layer)


def test_norms_that_stay_and_linear_layers_behind_axes_that_moved() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.scale = nn.LayerNorm(8), nn.Linear(8, 16), nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))
            return y.permute(0, 3, 1, 2) * self.scale

    ops = traced(Block(), 1, 8, 4, 4)
    assert [one.workload.widths for one in ops] == [(8,), (8, 16), (16,), (16,)]
    assert [axis for one in ops for _, axis in one.axes] == [3, 3, 3, 3, 1]
    assert ops[-1].workload.family == "mul((0, 1), {}) on 1xc0x4x4@0231, c0x1x1"


def test_joined_and_padded_channels() -> None:
    class Joined(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, functional.pad(x, (0, 0, 0, 0, 2, 2))], 1)

    ops = traced(Joined(), 1, 4, 6, 6)
    assert [one.workload.widths for one in ops] == [(8,), (12,)]
    assert ops[0].workload.family == "channels padded, axis 1 on 1x0x6x6"


def test_an_op_that_nobody_can_make_is_timed_as_it_is_called() -> None:
    ops = traced(Wrapped(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(4, 8, batch_first=True)), 2, 3, 4)
    assert [one.workload.widths for one in ops] == [()]
    assert ops[0].workload.family.startswith("LSTM as called")


def test_regions_are_counted_by_their_calls() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(int(x.shape[0] + float(x.sum() > 1e9))):
                x = self.block(x)
            return x

    graph = fxprune.trace(Opaque().eval(), torch.randn(2, 3, 8, 8))
    ops = ops_of_all(graph, 2)
    convs = [one for one in ops if "conv2d" in one.workload.family]
    assert [one.calls for one in convs] == [2.0]
    assert [one.calls for one in ops_of_all(graph, 4) if "conv2d" in one.workload.family] == [4.0]
    assert any(one.inside for one in ops)


def test_an_op_as_called_is_known_by_what_it_is_called_with_and_by_no_address() -> None:
    class Products(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.matmul(x, x.transpose(1, 2))

    graph = fxprune.trace(Products().eval(), torch.randn(1, 4, 8))
    (family,) = [one.workload.family for one in ops_of(graph, 1) if "matmul" in one.workload.family]
    code = (
        "import sys, torch, fxprune; from torch import nn; from fxprune.costs.latency.network_ops import ops_of\n"
        "class Products(nn.Module):\n"
        "    def forward(self, x): return torch.matmul(x, x.transpose(1, 2))\n"
        "graph = fxprune.trace(Products().eval(), torch.randn(1, 4, 8))\n"
        "print([one.workload.family for one in ops_of(graph, 1) if 'matmul' in one.workload.family][0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == family


def test_products_and_attention_are_timed_at_any_heads_rows_and_columns() -> None:
    class Both(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y = functional.scaled_dot_product_attention(q, k, v, mask)
            return torch.softmax(q @ k.transpose(2, 3), -1) @ y

    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 6, 8), torch.randn(1, 4, 6, 10)
    ops = ops_of(fxprune.trace(Both().eval(), (q, k, v, torch.randn(1, 4, 6, 6))), 1)
    attention, scores, softmax, product = ops
    assert attention.workload.widths == (4, 8, 10)
    assert [(node.name, axis) for node, axis in attention.axes] == [("q", 1), ("q", 3), ("v", 3)]
    assert scores.workload.widths == (4, 6, 8, 6)
    assert softmax.workload.widths == (4,)
    assert product.workload.widths == (4, 6, 6, 10)
    graph, inputs = attention.workload.make((3, 5, 7), Conditions())
    assert [tuple(one.shape) for one in inputs] == [(1, 3, 6, 5), (1, 3, 6, 5), (1, 3, 6, 7), (1, 3, 6, 6)]
    assert graph(*inputs).shape == (1, 3, 6, 7)
    graph, inputs = product.workload.make((2, 3, 5, 7), Conditions())
    assert graph(*inputs).shape == (1, 2, 3, 7)
    for op in (attention, scores, product):
        assert op.workload.straight
        assert not op.workload.fused


@pytest.mark.parametrize("way", ["by place", "by name", "bmm"])
def test_rows_and_columns_of_a_product_are_known_however_it_is_written(way: str) -> None:
    class Product(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            if way == "bmm":
                return torch.bmm(a, mat2=b)
            return torch.matmul(a, b) if way == "by place" else torch.matmul(other=b, input=a)

    (op,) = ops_of(fxprune.trace(Product().eval(), (torch.randn(3, 5, 4), torch.randn(3, 4, 7))), 3)
    assert op.workload.widths == (5, 4, 7)
    assert [(node.name, axis) for node, axis in op.axes] == [("a", 1), ("a", 2), ("b", 2)]
    graph, inputs = op.workload.make((2, 3, 6), Conditions())
    assert graph(*inputs).shape == (3, 2, 6)


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (1, 1, 6, 6), (6, 6), (2, 4, 6, 6), (1, 4, 6, 6)])
def test_masks_that_are_broadcast_stay(shape: tuple[int, ...]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = nn.Buffer(torch.randn(shape))

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    inputs = (torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8))
    (op,) = ops_of(fxprune.trace(Masked().eval(), inputs), 2)
    graph, made = op.workload.make((3, 5, 7), Conditions())
    heads = 3 if shape[-3:-2] == (4,) else 1
    assert made[3].shape == (shape if len(shape) == 2 else (shape[0], heads, 6, 6))
    assert graph(*made).shape == (2, 3, 6, 7)


def test_attention_with_fewer_heads_of_keys_or_of_one_value_is_timed_as_it_is_called() -> None:
    class Grouped(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            attend = functional.scaled_dot_product_attention
            return attend(q, k, v, enable_gqa=True), attend(q, q, q)

    graph = fxprune.trace(
        Grouped().eval(), (torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8))
    )
    found = ops_of(graph, 2)
    assert [one.workload.widths for one in found] == [(), ()]
    for one in found:
        alone, inputs = one.workload.make((), Conditions())
        assert alone(*inputs).shape == (2, 4, 6, 8)
