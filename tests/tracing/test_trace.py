"""The front end: what it keeps, what it refuses, and with which words."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from helpers import TinyNet, Wrapped, assert_state_equal, example, state_of, targets, traced
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.errors import TraceError
from fxprune.facts.shapes import shape
from fxprune.ir.nodes import module_path, origins
from fxprune.ir.trace_notes import opaque_modules


def test_the_graph_computes_the_same_function_and_shares_nothing_with_the_model() -> None:
    model = TinyNet().double()
    state = state_of(model)
    graph = fxprune.trace(model, example(2, 3, 8, 8))
    assert graph.training
    x = example(4, 3, 8, 8, seed=1)
    torch.testing.assert_close(graph.eval()(x), copy.deepcopy(model).eval()(x))
    own = {p.data_ptr() for p in graph.parameters()}
    assert not own & {p.data_ptr() for p in model.parameters()}
    assert_state_equal(model, state)
    assert list(graph.state_dict()) == list(state)


def test_nodes_know_their_shape_origin_and_path() -> None:
    graph = traced(TinyNet(), example(2, 3, 8, 8))
    node = next(n for n in graph.graph.nodes if n.target == "block1.conv2")
    assert shape(node) == (2, 6, 8, 8)
    assert origins(node) == (node.name,)
    add = next(n for n in graph.graph.nodes if n.name.startswith("iadd"))
    assert module_path(add) == "block1"


def test_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a + b, a * b

    graph = fxprune.trace(Two(), (torch.ones(2), torch.ones(2)))
    a, b = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(graph(a, b), (a + b, a * b))


def test_arguments_without_an_example_take_their_defaults() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, *, power: int = 2) -> torch.Tensor:
            y = x**power
            return y if mask is None else y * mask

    graph = fxprune.trace(Masked(), torch.ones(2))
    assert [n.name for n in graph.graph.nodes if n.op == "placeholder"] == ["x"]
    torch.testing.assert_close(graph(torch.full((2,), 3.0)), torch.full((2,), 9.0))
    both = fxprune.trace(Masked(), (torch.ones(2), torch.ones(2)))
    torch.testing.assert_close(both(torch.full((2,), 3.0), torch.full((2,), 2.0)), torch.full((2,), 18.0))


def test_a_data_dependent_branch_leaves_one_call_and_names_the_source_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    graph = fxprune.trace(Branching(), torch.ones(2))
    (opaque,) = opaque_modules(graph)
    assert re.search(r"test_trace\.py:\d+: `if x\.sum\(\) > 0:`", opaque.why)
    torch.testing.assert_close(graph(-torch.ones(2)), torch.ones(2))


def test_a_model_that_traces_to_something_else_is_one_call() -> None:
    model = Wrapped(lambda m, x: m.layer(x) if not isinstance(x, fx.Proxy) else x, layer=nn.Linear(4, 4))
    graph = fxprune.trace(model, torch.randn(2, 4))
    assert "something else than its traced graph" in opaque_modules(graph)[0].reason
    torch.testing.assert_close(graph(torch.ones(2, 4)), model(torch.ones(2, 4)))


def test_sizes_that_are_counted_on_do_not_change_other_names() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        size = half = x.shape[1]
        half //= 2
        return x[:, :half] * size

    graph = fxprune.trace(Wrapped(function), torch.randn(2, 4))
    torch.testing.assert_close(graph(torch.ones(3, 4)), torch.full((3, 2), 4.0))


def test_a_line_of_a_package_beside_torch_is_named_too() -> None:
    boxes = pytest.importorskip("torchvision.ops.boxes")
    model = Wrapped(lambda m, x: boxes.batched_nms(x, x[:, 0], x[:, 1].long(), 0.5))
    graph = fxprune.trace(model, torch.rand(5, 4))
    assert re.search(r"boxes\.py:\d+: `", opaque_modules(graph)[0].why)


def test_an_example_of_the_wrong_shape_names_the_layer() -> None:
    with pytest.raises(TraceError, match=r"stem\.0"):
        fxprune.trace(TinyNet(), torch.randn(2, 4, 8, 8))
    with pytest.raises(TraceError, match="2 example inputs were given"):
        fxprune.trace(TinyNet(), (torch.randn(2, 3, 8, 8), torch.ones(1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_in_weights_are_named(value: float) -> None:
    model = TinyNet()
    model.block2.conv1.weight.data[0, 0, 0, 0] = value
    with pytest.raises(fxprune.FxpruneError, match=r"block2\.conv1\.weight holds NaN or Inf"):
        fxprune.trace(model, torch.randn(2, 3, 8, 8))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"expected an nn\.Module"):
        fxprune.trace(torch.relu, torch.ones(2))  # type: ignore[arg-type]


def test_frozen_norms_keep_their_mode() -> None:
    model = TinyNet().train()
    model.block1.bn1.eval()
    graph = fxprune.trace(model, torch.randn(2, 3, 8, 8))
    assert graph.training
    assert not graph.get_submodule("block1.bn1").training
    assert graph.get_submodule("block1.bn2").training


def test_tracing_a_traced_graph_again() -> None:
    graph = traced(TinyNet(), example(2, 3, 8, 8))
    again = fxprune.trace(graph, example(2, 3, 8, 8))
    torch.testing.assert_close(again(example(2, 3, 8, 8)), graph(example(2, 3, 8, 8)))


def test_no_grad_in_forward_stays_and_gives_the_callers_mode_back() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = m.first(x)
        return m.second(y)  # type: ignore[no-any-return]

    model = Wrapped(function, first=nn.Linear(4, 4), second=nn.Linear(4, 4))
    with torch.no_grad():
        graph = fxprune.trace(model, torch.ones(2, 4))
        graph(torch.ones(2, 4))
        assert not torch.is_grad_enabled()
    graph = passes.Simplify()(graph).graph_module
    graph(torch.ones(2, 4)).sum().backward()
    assert torch.is_grad_enabled()
    assert graph.get_parameter("first.weight").grad is None
    assert graph.get_parameter("second.weight").grad is not None


def test_autocast_in_forward_is_in_the_graph() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.layer(x)  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(function, layer=nn.Linear(4, 4)), torch.ones(2, 4))
    assert opaque_modules(graph) == []
    assert graph(torch.ones(2, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["graph", "meta", "code", "_graph"])
def test_layers_with_names_that_torch_fx_uses(name: str) -> None:
    model = Wrapped(lambda m, x: getattr(m, name)(x), **{name: nn.Linear(4, 4)})
    graph = passes.Simplify()(fxprune.trace(model, torch.ones(2, 4))).graph_module
    torch.testing.assert_close(graph(torch.ones(3, 4)), model(torch.ones(3, 4)))


def test_a_lazy_module_is_refused_until_it_has_a_shape() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(fxprune.FxpruneError, match=r"0\.weight has no shape yet"):
        fxprune.trace(model, torch.ones(2, 3, 5, 5))


def test_attributes_that_forward_sets_hold_no_stand_ins() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.last = m.layer(x)
        return m.last if x.sum() > 0 else -m.last  # type: ignore[no-any-return]

    graph = fxprune.trace(Wrapped(function, layer=nn.Linear(4, 4)), torch.ones(2, 4))
    assert "last" not in vars(graph.get_submodule("model"))  # as before the model was called
    graph(torch.ones(2, 4))
    assert isinstance(graph.get_submodule("model").last, torch.Tensor)


def test_without_the_check() -> None:
    model = Wrapped(lambda m, x: m.layer(x) if not isinstance(x, fx.Proxy) else x, layer=nn.Linear(4, 4))
    graph = fxprune.trace(model, torch.randn(2, 4), check=False)
    assert targets(graph) == []


def test_weights_can_be_shared_with_the_model_which_keeps_its_own_layers_and_flags() -> None:
    model = TinyNet().train()
    state = state_of(model)
    graph = fxprune.trace(model, torch.randn(2, 3, 8, 8), share_weights=True)
    assert {id(p) for p in graph.parameters()} == {id(p) for p in model.parameters()}
    assert {id(b) for b in graph.buffers()} == {id(b) for b in model.buffers()}
    fxprune.Pipeline([passes.FoldBatchNorm(), passes.Simplify()])(graph.eval())
    assert_state_equal(model, state)
    assert model.training
    assert model.block1.relu.inplace
    copied = fxprune.trace(model, torch.randn(2, 3, 8, 8))
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in model.parameters())


def test_a_flag_that_a_class_keeps_for_itself_is_followed_too() -> None:
    class Own(nn.Module):
        @property
        def training(self) -> bool:
            return bool(vars(self).get("flag"))

        @training.setter
        def training(self, value: bool) -> None:
            vars(self)["flag"] = value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.dropout(x, 0.5, training=self.training)

    graph = fxprune.trace(nn.Sequential(Own()).train(), torch.randn(2, 3))
    x = torch.ones(100, 3)
    assert not torch.equal(graph.train()(x), x)
    assert torch.equal(graph.eval()(x), x)
