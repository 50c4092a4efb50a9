"""What an emitted model holds: layers of every kind, tied and frozen weights, buffers, dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Wrapped, emitted
from torch import fx, nn

import fxprune
from fxprune.errors import EmitError


class Tied(nn.Module):
    """A weight that two layers share, a parameter that three nodes read, and a bias shared with it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.gamma = self.second.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x * self.gamma) + self.gamma) * self.gamma
        return y


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    graph = fxprune.trace(Tied().eval(), torch.randn(2, 4))
    for model in emitted(graph, tmp_path, torch.randn(3, 4)):
        assert model.first.weight is model.second.weight
        assert model.second.bias is model.gamma
        assert len(list(model.parameters())) == 3


def test_a_layer_under_two_names_stays_one(tmp_path: Path) -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: m.a(m.a(x)), a=nn.BatchNorm1d(4)).eval(), torch.randn(2, 4))
    graph.add_module("b", graph.get_submodule("a"))
    [node for node in graph.graph.nodes if node.op == "call_module"][1].target = "b"
    graph.recompile()
    for model in emitted(graph, tmp_path, torch.randn(3, 4)):
        assert model.a is model.b


def test_single_parameters_stay_frozen(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].bias.requires_grad_(False)
    model[1].requires_grad_(False)
    model.register_parameter("free", nn.Parameter(torch.ones(4), requires_grad=False))
    wrapped = Wrapped(lambda m, x: m.layers(x) * m.layers.free, layers=model)
    graph = fxprune.trace(wrapped.eval(), torch.randn(2, 4))
    frozen = {"layers.free", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
    for again in emitted(graph, tmp_path, torch.randn(3, 4)):
        assert {name for name, p in again.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True),
        nn.LSTM(4, 3, bias=False),
        nn.GRU(4, 3, dropout=0.0),
        nn.RNN(4, 3, nonlinearity="relu"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_recurrent_layers(tmp_path: Path, layer: nn.Module) -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: m.layer(x)[0], layer=layer).eval(), torch.randn(5, 2, 4))
    emitted(graph, tmp_path, torch.randn(3, 6, 4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d((None, None)),
        nn.AdaptiveAvgPool2d((None, 3)),
        nn.AdaptiveMaxPool2d((2, 2)),
        nn.Hardtanh(-1.0, float("inf")),
        nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False),
        nn.ConvTranspose2d(4, 2, (2, 3), stride=2, output_padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=2),
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.Unflatten(1, (2, 2)),
        nn.BatchNorm2d(4, momentum=None, affine=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_arguments_of_layers(tmp_path: Path, layer: nn.Module) -> None:
    graph = fxprune.trace(Wrapped(lambda m, x: m.layer(x), layer=layer).eval(), torch.randn(2, 4, 6, 6))
    emitted(graph, tmp_path, torch.randn(1, 4, 7, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_unsaved_buffers(tmp_path: Path, dtype: torch.dtype) -> None:
    wrapped = Wrapped(lambda m, x: m.layer(x) + m.table, layer=nn.Linear(4, 4))
    wrapped.register_buffer("table", torch.arange(4.0), persistent=False)
    graph = fxprune.trace(wrapped.to(dtype).eval(), torch.randn(2, 4, dtype=dtype))
    for model in emitted(graph, tmp_path, torch.randn(3, 4, dtype=dtype)):
        assert model.table.dtype == model.layer.weight.dtype == dtype


def with_extra_buffer() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_buffer("mask", torch.ones(4))
    return layer


def with_hook() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, args, output: None)
    return layer


def of_two_dtypes() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_buffer("wide", torch.ones(4, dtype=torch.float64))
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (with_extra_buffer(), "layer also holds mask, which torch.nn does not give it"),
        (with_hook(), "layer has hooks, which source cannot carry"),
        (of_two_dtypes(), r"layer holds tensors of torch\.float32 and torch\.float64"),
        (nn.TransformerEncoderLayer(4, 2, 8), "layer: nn.TransformerEncoderLayer does not keep its argument d_model"),
    ],
)
def test_layers_that_cannot_be_built_again_are_refused(tmp_path: Path, layer: nn.Module, message: str) -> None:
    graph = graph_of(nn.Linear(4, 4))
    graph.layer = layer
    with pytest.raises(EmitError, match=message):
        fxprune.emit(graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def graph_of(layer: nn.Module) -> fx.GraphModule:
    return fxprune.trace(Wrapped(lambda m, x: m.layer(x), layer=layer).eval(), torch.randn(2, 4))


def test_reading_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    graph = graph_of(nn.Linear(4, 4))
    graph.note = nn.Linear(1, 1)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    with graph.graph.inserting_before(output):
        output.args = ((output.args[0], graph.graph.get_attr("note")),)
    with pytest.raises(EmitError, match="note reads note, a Linear; only tensors can be emitted"):
        fxprune.emit(graph, tmp_path / "out")


def test_state_that_no_node_uses_is_left_out(tmp_path: Path) -> None:
    graph = graph_of(nn.Linear(4, 4))
    graph.add_module("unused", nn.Conv2d(3, 3, 3))
    graph.register_buffer("also_unused", torch.ones(3))
    model: Any
    for model in emitted(graph, tmp_path, torch.randn(3, 4)):
        assert set(model.state_dict()) == {"layer.weight", "layer.bias"}


class DataDependent(nn.Module):
    """What can only be one opaque call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y if y.sum() > 0 else -y


def test_a_norm_whose_statistics_were_taken_away_is_refused(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_mean = norm.running_var = None
    model = nn.Sequential(nn.Conv2d(3, 3, 3), norm)
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(EmitError, match=r"1\.running_mean is None, but a new layer of its class has one"):
        fxprune.emit(graph, tmp_path / "out")


def test_an_opaque_module_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), DataDependent())
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(EmitError, match=r"1 is an opaque call of a .*DataDependent, whose code could not be traced"):
        fxprune.emit(graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()
