"""Calls of one kind are made once, and what is remembered of them is what each of them returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, randomize
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

from fxprune.facts.shape_cache import Repeated, RepeatedCalls, Values, made
from fxprune.facts.shapes import values_of

Function = Callable[[Any, torch.Tensor], Any]
MODE = FakeTensorMode(allow_non_fake_inputs=True)


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    return MODE.from_tensor(torch.empty(shape, dtype=dtype))


class Caller:
    """Calls nodes of the graph of ``function`` by name, and notes those that were really called."""

    def __init__(self, function: Function, **layers: nn.Module) -> None:
        self.graph = fx.symbolic_trace(Wrapped(function, **layers))
        self.nodes = [node for node in self.graph.graph.nodes if node.op.startswith("call")]
        self.made: list[str] = []
        self.calls = RepeatedCalls()

    def compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.made.append(node.name)
        with MODE:
            return getattr(fx.Interpreter(self.graph), node.op)(node.target, args, kwargs)

    def __call__(self, *args: Any, node: int = 0, **kwargs: Any) -> Any:
        return self.calls.call(self.nodes[node], args, kwargs, self.compute)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda m, x: m.conv(x), ()),
        (lambda m, x: m.norm(x), ()),
        (lambda m, x: m.pool(x), ()),
        (lambda m, x: functional.avg_pool2d(x, 3), (3,)),
        (lambda m, x: torch.softmax(x, 1), (1,)),
        (lambda m, x: x.flatten(1), (1,)),
        (lambda m, x: x.unsqueeze(0), (0,)),
    ],
)
def test_a_call_of_a_kind_is_made_once(function: Function, args: tuple[Any, ...]) -> None:
    layers: dict[str, nn.Module] = {"conv": nn.Conv2d(4, 6, 3), "norm": nn.InstanceNorm2d(4), "pool": nn.AvgPool2d(2)}
    call = Caller(function, **layers)
    first, second = call(fake(2, 4, 6, 6), *args), call(fake(2, 4, 6, 6), *args)
    assert len(call.made) <= 1  # some are told without any call
    assert type(first) is type(second) is Repeated
    assert made(first) is not made(second)
    assert made(first).shape == made(second).shape
    assert made(call(fake(2, 4, 8, 9), *args)).shape != made(first).shape
    assert made(call(fake(2, 4, 6, 6), *args)).shape == made(first).shape


@pytest.mark.parametrize(
    ("function", "layers"),
    [
        (lambda m, x: (m.a(x), m.b(x)), {"a": nn.AvgPool2d(2), "b": nn.AvgPool2d(3)}),
        (lambda m, x: (m.a(x), m.b(x)), {"a": nn.Conv2d(4, 6, 3), "b": nn.Conv2d(4, 6, 3, stride=2)}),
        (lambda m, x: (m.a(x), m.b(x)), {"a": nn.Conv2d(4, 6, 3), "b": nn.Conv2d(4, 5, 3)}),
        (lambda m, x: (m.a(x), m.b(x)), {"a": nn.Linear(6, 5), "b": nn.Linear(6, 7)}),
        (lambda m, x: (m.a(x), m.b(x)), {"a": nn.Flatten(1), "b": nn.Flatten(2)}),
        (lambda m, x: (torch.sum(x, 1), torch.sum(x, 1, True)), {}),
        (lambda m, x: (torch.sum(x, 1), torch.mean(x, 1)), {}),
        (lambda m, x: (x.flatten(1), x.unsqueeze(1)), {}),
        (lambda m, x: (torch.sum(x, dim=1), torch.sum(x, dim=2)), {}),
        (lambda m, x: (torch.clamp(x, 1), torch.clamp(x, True)), {}),
        (lambda m, x: (x * 1, x * 1.0, x.long() * 1, x.long() * 1.0), {}),  # 1 == 1.0, of other dtypes
        (lambda m, x: (x[:, 1:], x[:, 2:], x[1], x[None]), {}),
        (lambda m, x: (x.float() + x, x.float() + x.float()), {}),
        (lambda m, x: (torch.relu(x.transpose(2, 3)), torch.relu(x)), {}),  # other strides
        (lambda m, x: (torch.relu(x[1:]), torch.relu(x[:1])), {}),
        (lambda m, x: (x.view(x.shape), x.reshape(x.shape[0], -1)), {}),
        (lambda m, x: (x.max(1)[0], x.max(1)[1], x.chunk(2, 1)[1]), {}),
    ],
)
def test_kinds_are_told_apart(function: Function, layers: dict[str, nn.Module]) -> None:
    graph = fx.symbolic_trace(randomize(Wrapped(lambda m, x: (function(m, x), function(m, x)), **layers)))
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    values, run = values_of(graph, [x]), fx.Interpreter(graph, garbage_collect_values=False)
    run.run(x)
    for node, value in run.env.items():
        if isinstance(value, torch.Tensor):
            found = values[node]
            assert (found.shape, found.dtype, found.stride()) == (value.shape, value.dtype, value.stride()), node


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, args, output: output[:1])
    return layer


class Own(nn.Module):
    """A layer of the user's, which may do anything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def foreign(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.mark.parametrize("layer", [hooked(), Own(), nn.Sequential(nn.ReLU()), foreign])
def test_what_may_do_anything_is_called_each_time(layer: Any) -> None:
    call = Caller(lambda m, x: x, layer=layer if isinstance(layer, nn.Module) else nn.ReLU())
    call.graph.add_module("layer", layer if isinstance(layer, nn.Module) else nn.ReLU())
    graph = call.graph.graph
    with graph.inserting_before(graph.output_node()):
        x = (next(iter(graph.nodes)),)
        node = graph.call_module("layer", x) if isinstance(layer, nn.Module) else graph.call_function(layer, x)
    call.nodes = [node]
    for _ in range(3):
        assert isinstance(call(fake(2, 3)), FakeTensor)
    assert len(call.made) == 3


def test_calls_under_autocast_are_of_another_kind() -> None:
    call = Caller(lambda m, x: m.linear(x), linear=nn.Linear(4, 4))
    dtypes = []
    for enabled in (False, True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            dtypes.append(made(call(fake(2, 4))).dtype)
    assert dtypes == [torch.float32, torch.bfloat16] * 2


def test_a_stand_in_is_one_tensor_with_memory_of_its_own() -> None:
    call = Caller(lambda m, x: torch.sum(x, 1))
    first, second = call(fake(2, 3), 1), call(fake(2, 3), 1)
    assert first.storage != second.storage
    assert second.tensor is second.tensor is made([second])[0]
    assert made({"a": (second, 1)}) == {"a": (second.tensor, 1)}
    assert first.storage != second.storage  # the tensor's own, now


def test_views_and_what_is_returned_as_it_was_given_share_memory() -> None:
    flatten = Caller(lambda m, x: x.flatten(1))
    identity = Caller(lambda m, x: m.identity(x), identity=nn.Identity())
    for _ in range(2):
        x = fake(2, 3, 4)
        view = flatten(x, 1)
        assert view.storage == x.untyped_storage()._cdata
        assert made(view).untyped_storage()._cdata == x.untyped_storage()._cdata
        assert made(identity(x)) is x
        again = flatten(view, 0)  # a view of what stands for a view
        assert again.storage == view.storage
        assert made(again).shape == (24,)


def test_values_give_tensors_metadata_and_storages() -> None:
    call = Caller(lambda m, x: torch.sum(x, 1))
    values, node = Values(), call.nodes[0]
    assert values.raw(node) is None
    assert values.storages(node) == []
    with pytest.raises(KeyError):
        values[node]
    x = fake(2, 3)
    total = call(x, 1)
    values[node] = total
    assert values.raw(node) is total
    assert values[node] is total.tensor
    assert values.metadata(node).shape == (2,)
    values[node] = (total, [x], 3)
    assert values.storages(node) == [total.storage, x.untyped_storage()._cdata]
    assert values[node] == (total.tensor, [x], 3)
