"""MACs against torch's own counter, which counts each twice."""

from __future__ import annotations

import pytest
import torch
from helpers import Wrapped
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.costs.macs import batch_size, node_params, total_macs, total_params, unknown_macs, unknown_places
from fxprune.pipelines.chains import insert_scales


class Attention(nn.Module):
    """Returns the values alone."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self.attention(query, key, value)[0]  # type: ignore[no-any-return]


def counted(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(8, 4, 3, stride=2, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.ConvTranspose2d(8, 4, 3, stride=2)),
        nn.Sequential(nn.Flatten(), nn.Linear(8 * 9 * 9, 7)),
        Wrapped(lambda m, x: functional.linear(x, m.w.weight), w=nn.Linear(9, 5)),
        Wrapped(lambda m, x: x @ x.transpose(2, 3)),
        Wrapped(lambda m, x: functional.conv2d(x, m.c.weight), c=nn.Conv2d(8, 4, 3)),
        Wrapped(lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x)),
        Wrapped(lambda m, x: torch.einsum("nchw,cd -> ndhw", x, m.w.weight), w=nn.Linear(5, 8)),
        Wrapped(lambda m, x: torch.einsum("bchw->bwhc", x)),
        Wrapped(lambda m, x: torch.baddbmm(x[0], x[0], x[0])),
        Wrapped(lambda m, x: x[0, 0].addmm(x[0, 0], x[0, 1])),
    ],
)
def test_macs_are_half_of_torchs_flops(model: nn.Module) -> None:
    x = torch.randn(1, 8, 9, 9)
    assert total_macs(fxprune.trace(model.eval(), x)) == counted(model, x)


def test_macs_of_a_bilinear_layer() -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: m.b(x, x[:, :4]), b=nn.Bilinear(9, 4, 5)), torch.randn(2, 9))
    assert total_macs(graph) == 5 * (9 * 4 + 9)


def test_macs_of_attention_to_features_of_other_widths() -> None:
    attention = nn.MultiheadAttention(16, 4, kdim=64, vdim=32, batch_first=True)
    query, key, value = torch.randn(1, 5, 16), torch.randn(1, 7, 64), torch.randn(1, 7, 32)
    graph = fxprune.trace(Attention(attention), (query, key, value))
    assert total_macs(graph) == 16 * (2 * 5 * 16 + 7 * 64 + 7 * 32 + 2 * 5 * 7)


def test_macs_of_attention_are_those_of_its_two_products() -> None:
    x = torch.randn(1, 8, 9, 9)  # some releases of torch count none on the CPU
    attention = Wrapped(lambda m, x: functional.scaled_dot_product_attention(x, x, x))
    products = Wrapped(lambda m, x: (x @ x.transpose(2, 3)).softmax(3) @ x)
    assert total_macs(fxprune.trace(attention, x)) == total_macs(fxprune.trace(products, x)) == 2 * 8 * 9**3


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "convnext_tiny"])
def test_macs_of_real_networks(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("cpu"):
        model = models.get_model(name)
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 64, 64))
    assert batch_size(graph) == 2
    assert total_macs(graph) == counted(model, torch.randn(1, 3, 64, 64))
    assert total_params(graph) == sum(p.numel() for p in model.parameters())
    assert not unknown_macs(graph)


@pytest.mark.parametrize("name", ["swin_t", "googlenet", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_nothing_is_unknown_in_real_networks(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    graph = fxprune.trace(models.get_model(name, **options).eval(), torch.randn(1, 3, 64, 64), check=False)
    assert unknown_places(graph) == unknown_places(insert_scales(graph, "all", verify=False).graph_module) == ()


def test_tied_parameters_count_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    graph = fxprune.trace(nn.Sequential(first, second), torch.randn(2, 4))
    assert total_params(graph) == 16 + 4 + 4
    assert [node_params(n) for n in graph.graph.nodes if n.op == "call_module"] == [20, 20]
