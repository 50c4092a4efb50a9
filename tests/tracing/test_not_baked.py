"""What a graph cannot hold is not baked into it in silence: it is opaque, warned of, or in the graph after all."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, targets
from torch import nn
from torch.nn import functional
from tracing_helpers import Sign, conv, images, opaque

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneWarning


class ReadsThroughHook(nn.Module):
    """Forward reads what a hook on one of its layers has kept."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()
        seen: dict[str, torch.Tensor] = {}
        self.a.register_forward_hook(lambda module, args, output: seen.update(a=output))
        self.kept = lambda: seen["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)) + self.kept()  # type: ignore[no-any-return, no-untyped-call]


def test_what_a_hook_kept_of_an_earlier_call_is_no_constant() -> None:
    model = ReadsThroughHook().eval()
    with pytest.warns(FxpruneWarning, match="model is opaque and hides 1 conv: .* that another call computed"):
        graph = fxprune.trace(model, images())
    assert opaque(graph) == ["model"]
    assert torch.equal(graph(images(1)), model(images(1)))


class Counts(nn.Module):
    """Depends on data, and on how often it was called: in place, anew, and in Python."""

    n: torch.Tensor
    m: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("m", torch.zeros(()))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        self.m = self.m + 1
        self.calls += 1
        if x.sum() > -1e9:
            x = self.conv(x)
        return x * self.n * self.m * self.calls


@pytest.mark.parametrize("inside", [False, True])
def test_tracing_does_not_advance_the_state_of_an_opaque_module(inside: bool) -> None:
    model = (nn.Sequential(conv(), Counts()) if inside else Counts()).eval()
    graph = fxprune.trace(model, images())
    assert opaque(graph) == ["1" if inside else "model"]
    for _ in range(2):
        assert torch.equal(graph(images(1)), model(images(1)))


def test_a_function_with_a_backward_of_its_own_works_while_others_trace() -> None:
    model = Wrapped(lambda m, x: x + Sign.apply(torch.ones(1)), layer=conv())
    assert torch.equal(fxprune.trace(model, images())(images()), images() + 1)
    assert Sign.apply(-torch.ones(1)).item() == -1


@pytest.mark.parametrize("tier", ["symbolic", "values"])
def test_random_tensors_are_drawn_in_every_call(tier: str) -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x)
        noise = torch.randn(1, 1, 6, 6)
        return y + noise if tier == "symbolic" or y.shape[0] > 1 else y  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(function, layer=conv()), images())
    assert fxprune.ir.trace_notes.tier_of(graph) == tier
    assert not torch.equal(graph(images()), graph(images()))


def test_a_weight_that_forward_sets_is_set() -> None:
    class Constrained(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1.0)
            return super().forward(input)

    model = nn.Sequential(Constrained(4, 4, 3, padding=1))
    with pytest.warns(FxpruneWarning, match="0 is opaque and hides 1 conv: .* it sets data of a tensor"):
        graph = fxprune.trace(model, images())
    with torch.no_grad():
        for parameter in (*model.parameters(), *graph.parameters()):
            parameter.mul_(10)
    assert torch.equal(graph(images()), model(images()))


def test_a_buffer_that_forward_assigns_is_kept() -> None:
    class Averages(nn.Module):
        mean: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
            return self.conv(x)  # type: ignore[no-any-return]

    model = nn.Sequential(Averages(), conv())
    graph = fxprune.trace(model, images())
    assert opaque(graph) == ["0"]
    for one in (graph, model):
        one(images())
    assert torch.equal(graph.get_buffer("0.mean"), model.get_buffer("0.mean"))
    assert float(model.get_buffer("0.mean")) != 0


def test_a_scripted_module_is_opaque() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    model = nn.Sequential(conv(), scripted, conv()).eval()
    with pytest.warns(FxpruneWarning, match=r"1 is opaque and hides 1 conv: it is compiled by torch\.jit"):
        graph = fxprune.trace(model, images())
    assert opaque(graph) == ["1"]
    assert len(list(graph.parameters())) == len(list(model.parameters()))
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv()])(graph)
    assert len(result.rewritten) == 4
    torch.testing.assert_close(result.graph_module(images(1)), model(images(1)))


def patched(set_forward: Callable[[nn.Conv2d], None]) -> nn.Module:
    layer = conv()
    set_forward(layer)
    return nn.Sequential(conv(), layer).eval()


def tile(layer: nn.Conv2d) -> None:
    def tiled(self: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)

    layer._conv_forward = types.MethodType(tiled, layer)  # type: ignore[method-assign]


def double(layer: nn.Conv2d) -> None:
    layer.forward = types.MethodType(lambda self, x: 2 * nn.Conv2d.forward(self, x), layer)  # type: ignore[method-assign]


@pytest.mark.parametrize("set_forward", [tile, double])
def test_a_layer_with_a_forward_set_on_it_is_what_that_computes(set_forward: Callable[[nn.Conv2d], None]) -> None:
    model = patched(set_forward)
    graph = fxprune.trace(model, images())
    sparse = passes.InsertResConv()(graph).graph_module
    result = fxprune.Pipeline(fxprune.AFTER_TRAINING)(sparse)
    torch.testing.assert_close(result.graph_module(images(1)), model(images(1)))


def test_data_parallel_is_looked_into() -> None:
    graph = fxprune.trace(nn.Sequential(nn.DataParallel(conv()), nn.ReLU()), images())
    assert targets(graph) == ["Conv2d", "ReLU"]


@pytest.mark.parametrize("layer", [conv(), nn.BatchNorm2d(4), nn.Identity()])
def test_an_input_by_keyword_is_found(layer: nn.Module) -> None:
    model = Wrapped(lambda m, x: torch.relu(m.first(x) + m.layer(input=m.first(x))), first=conv(), layer=layer).eval()
    graph = fxprune.trace(model, images())
    assert opaque(graph) == []
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.Simplify()])(graph)
    torch.testing.assert_close(result.graph_module(images(1)), model(images(1)))


def test_weights_without_values_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(conv())
    with pytest.raises(fxprune.FxpruneError, match=r"0\.weight is on the meta device and has no value: load weights"):
        fxprune.trace(model, images())


@pytest.mark.parametrize("how", ["with", "decorated"])
def test_a_part_without_gradient_is_in_the_graph(how: str) -> None:
    @torch.no_grad()
    def decorated(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.layer(x)  # type: ignore[no-any-return]

    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        if how == "decorated":
            return x * decorated(m, x)
        with torch.no_grad():
            y = m.layer(x)
        return x * y  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(function, layer=conv()), images())
    assert opaque(graph) == []
    assert not graph(images()).requires_grad


def test_layers_that_draw_are_traced_on_values_too() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x)
        return m.pool(y) if y.shape[2] > 4 else y  # type: ignore[no-any-return]

    pool = nn.FractionalMaxPool2d(2, output_size=4)
    graph = fxprune.trace(Wrapped(function, layer=conv(), pool=pool), images())
    assert (opaque(graph), fxprune.ir.trace_notes.tier_of(graph)) == ([], "values")
    assert fxprune.Pipeline([passes.InsertResConv(), passes.Simplify()])(graph).max_relative == 0
