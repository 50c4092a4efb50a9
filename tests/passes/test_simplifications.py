"""The small passes that Simplify is made of: where each fires, and where it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, assert_rewrites, example, targets, traced
from torch import fx, nn
from torch.nn import functional

from fxprune import passes
from fxprune.rewriting.contract import Log


def graph_of(function: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module) -> fx.GraphModule:
    torch.manual_seed(0)
    return traced(Wrapped(function, **layers), example(2, 4, 6, 6))


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, **{"padding": 1, **options})


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda m, x: torch.relu(torch.relu(x)), ["relu"]),
        (lambda m, x: torch.relu(torch.sigmoid(x)), ["sigmoid"]),
        (lambda m, x: functional.relu6(functional.relu6(x)), ["relu6"]),
        (lambda m, x: torch.relu(functional.max_pool2d(torch.relu(x), 2)), ["relu", "max_pool2d"]),
        (lambda m, x: torch.relu(torch.relu(x) + torch.sigmoid(x)), ["relu", "sigmoid", "add"]),
        (lambda m, x: torch.relu(torch.cat([torch.relu(x), torch.abs(x)], 1)), ["relu", "abs", "cat"]),
        (lambda m, x: torch.relu(0.5 * torch.relu(x)), ["relu", "mul"]),
        (lambda m, x: torch.relu(x * x), ["mul"]),
        (lambda m, x: torch.relu(functional.pad(torch.relu(x), (1, 1))), ["relu", "pad"]),
    ],
)
def test_redundant_activations_go(function: Callable[[Any, torch.Tensor], torch.Tensor], left: list[str]) -> None:
    graph = graph_of(function)
    result = assert_rewrites(graph, passes.DropRedundantActivations(), count=1)
    assert targets(result.graph_module) == left


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.relu(x),
        lambda m, x: torch.relu(torch.relu(x) * -0.5),
        lambda m, x: torch.relu(torch.relu(x) - 1.0),
        lambda m, x: functional.relu6(torch.relu(x)),
        lambda m, x: functional.relu6(2.0 * functional.relu6(x)),
        lambda m, x: torch.relu(torch.tanh(x)),
        lambda m, x: torch.relu(functional.pad(torch.relu(x), (1, 1), value=-1.0)),
        lambda m, x: torch.relu(functional.interpolate(torch.relu(x), scale_factor=2, mode="bicubic")),
        lambda m, x: torch.relu(functional.interpolate(torch.relu(x), None, 2, "bicubic")),
        lambda m, x: torch.relu(torch.add(torch.relu(x), torch.relu(x), alpha=-2)),
        lambda m, x: torch.relu(torch.cat([torch.relu(x), x], 1)),
        lambda m, x: functional.gelu(torch.relu(x)),
    ],
)
def test_other_activations_stay(function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    assert_rewrites(graph_of(function), passes.DropRedundantActivations(), count=0)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda m, x: (x * 0.5) * 3.0, 1),
        (lambda m, x: x * 0.5 + x, 1),
        (lambda m, x: x + x, 1),
        (lambda m, x: x * 0.5 + x * -0.25, 1),
        (lambda m, x: x.mul(0.5).mul(3.0), 1),
        (lambda m, x: x.mul(0.5).add(x), 1),
        (lambda m, x: (x * 2.0 + x) * 0.5 + x, 3),
        (lambda m, x: torch.add(x * 0.5, x, alpha=2), 0),
        (lambda m, x: x * 0.5 + torch.relu(x), 0),
        (lambda m, x: x * x, 0),
        (lambda m, x: (x * 0.5) * x[:, :1], 0),
        (lambda m, x: (lambda n: n + n + n * 2 * 3)(x.long()), 0),
    ],
)
def test_scales_combine(function: Callable[[Any, torch.Tensor], torch.Tensor], count: int) -> None:
    assert_rewrites(graph_of(function), passes.CombineScales(), count=count)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda m, x: m.conv(x) * 0.5, 1),
        (lambda m, x: m.conv(x * -0.5), 1),
        (lambda m, x: torch.relu(m.conv(x)) * 0.5, 1),
        (lambda m, x: torch.relu(m.conv(x)) * -0.5, 0),
        (lambda m, x: functional.max_pool2d(torch.relu(m.conv(x)), 2) * 2.0, 1),
        (lambda m, x: (m.conv(x) + m.other(x)) * 0.5, 1),
        (lambda m, x: (m.conv(x) + x) * 0.5, 0),
        (lambda m, x: m.conv(x * 0.5) + m.other(x), 1),
        (lambda m, x: (lambda y: m.conv(y) + m.other(y))(x * 0.5), 1),
        (lambda m, x: (lambda y: m.conv(y) + y)(x * 0.5), 0),
        (lambda m, x: m.conv(torch.relu(x * 2.0)), 1),
        (lambda m, x: m.conv(torch.relu(x * 2.0) * 3.0), 2),  # the first one waits until the second is out of its way
        (lambda m, x: m.conv(torch.sigmoid(x * 2.0)), 0),
        (lambda m, x: m.conv(torch.sigmoid(m.other(x)) * 2.0), 1),
        (lambda m, x: m.conv(m.conv(x) * 0.5), 0),
        (lambda m, x: x * 0.5, 0),
        (lambda m, x: m.conv(x) * 0.0, 0),
    ],
)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_scales_fold(function: Callable[[Any, torch.Tensor], torch.Tensor], count: int, padding_mode: Any) -> None:
    graph = graph_of(function, conv=conv(padding_mode=padding_mode), other=conv(bias=False))
    assert_rewrites(graph, passes.FoldScale(), count=count)


class Choosy(nn.Module):
    """Something else than its name will say; opaque."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.sum() > 1e9:
            return a
        return a - 3 * b * b


def test_a_module_with_the_name_of_a_method_is_no_sum_and_no_product() -> None:
    layers = {"conv": conv(), "other": conv(), "add": Choosy(), "mul": Choosy()}
    graph = graph_of(lambda m, x: m.mul(m.add(m.conv(x), m.other(x)) * 0.5, x) * 2.0, **layers)
    assert_rewrites(graph, passes.Simplify(), count=0)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda m, x: x + torch.relu(x * 0.0), []),
        (lambda m, x: x + m.plain(torch.relu(x * 0.0)), []),
        (lambda m, x: x + m.conv(torch.relu(x * 0.0)), ["add"]),
        (lambda m, x: x - m.plain(x * 0.0), []),
        (lambda m, x: x.add(m.plain(x.mul(0.0))), []),
        (lambda m, x: x.sub(m.plain(x * 0.0)), []),
        (lambda m, x: torch.relu(x) + m.plain(m.plain2(functional.max_pool2d(x * 0.0, 3, 1, 1))), ["relu"]),
    ],
)
def test_zeros_propagate(function: Callable[[Any, torch.Tensor], torch.Tensor], left: list[str]) -> None:
    graph = graph_of(function, conv=conv(), plain=conv(bias=False), plain2=conv(bias=False))
    result = assert_rewrites(graph, passes.PropagateZeros(), count=1)
    assert targets(passes.EliminateDeadCode()(result.graph_module).graph_module) == left


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda m, x: x + m.conv(x * 0.0), 1),
        (lambda m, x: x + 0.0 * functional.gelu(m.conv(m.place(x))).clamp(-1, 1), 1),
        (lambda m, x: x + 0.0 * torch.clamp(functional.gelu(m.conv(m.place(x))), -1, 1), 1),
        (lambda m, x: m.pool(x) + 0.0 * torch.sigmoid(x * torch.sigmoid(x)), 1),
        (lambda m, x: m.place.weight[None] + x * 0.0, 0),
        (lambda m, x: x.mean(0, keepdim=True) + x * 0.0, 0),
    ],
)
def test_a_zero_that_may_give_the_sum_its_shape_stays(
    function: Callable[[Any, torch.Tensor], torch.Tensor], count: int
) -> None:
    layers = {"conv": conv(bias=False), "place": nn.LayerNorm((4, 6, 6)), "pool": nn.AvgPool2d(3, 1, 1)}
    graph = traced(Wrapped(function, **layers), example(1, 4, 6, 6))
    result = assert_rewrites(graph, passes.PropagateZeros(), count=count)
    assert result.graph_module(example(3, 4, 6, 6)).shape == (3, 4, 6, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x) * 0.0,
        lambda m, x: x[:, :1] * 0.0 + torch.relu(x[:1]),  # dropping the zero would change the shape
        lambda m, x: x * 0.0 - x,
        lambda m, x: x + torch.sigmoid(x * 0.0),
    ],
)
def test_other_zeros_stay(function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    assert_rewrites(graph_of(function, conv=conv()), passes.PropagateZeros(), count=0)


def test_the_bias_that_a_conv_of_zeros_leaves_is_a_parameter() -> None:
    graph = graph_of(lambda m, x: x + m.conv(x * 0.0), conv=conv())
    result = passes.Simplify()(graph)
    assert {name: tuple(p.shape) for name, p in result.graph_module.named_parameters()} == {"bias_conv": (4, 1, 1)}
    assert result.graph_module(example(5, 4, 6, 6)).shape == (5, 4, 6, 6)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda m, x: m.identity(x) + 0, 2),
        (lambda m, x: x * 1.0 / 1, 2),
        (lambda m, x: 1 * x - 0.0, 2),
        (lambda m, x: 1 / x, 0),
        (lambda m, x: 0 - x, 0),
        (lambda m, x: x * True, 0),
    ],
)
def test_identities_go(function: Callable[[Any, torch.Tensor], torch.Tensor], count: int) -> None:
    assert_rewrites(graph_of(function, identity=nn.Identity()), passes.DropIdentities(), count=count)


def test_an_identity_that_changes_the_dtype_stays() -> None:
    model = Wrapped(lambda m, x: x.long() * 1.0)
    assert_rewrites(traced(model, example(2, 4)), passes.DropIdentities(), count=0)


def test_dropout_goes_in_eval_mode_only() -> None:
    graph = graph_of(lambda m, x: functional.dropout2d(m.drop(x), 0.5, m.training), drop=nn.Dropout(0.5))
    assert_rewrites(graph, passes.DropDropout(), count=2)
    result = passes.DropDropout()(graph.train())
    assert not result.modified
    assert all("train mode" in site.why for site in result.declined)


def test_stochastic_depth_goes_in_eval_mode() -> None:
    ops = pytest.importorskip("torchvision.ops")
    graph = graph_of(lambda m, x: m.drop(x) + x, drop=ops.StochasticDepth(0.5, "row"))
    assert_rewrites(graph, passes.DropDropout(), count=1)


def test_dropout_that_is_always_on_stays() -> None:
    graph = graph_of(lambda m, x: functional.dropout(x, 0.5, True))
    result = passes.DropDropout()(graph)
    assert not result.modified


def test_dead_code_goes_but_not_what_writes_to_state() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)  # type: ignore[operator]
            torch.sigmoid(x)
            return torch.relu(x)

    graph = traced(Counting(), example(2, 4))
    result = assert_rewrites(graph, passes.EliminateDeadCode(), count=1)
    assert targets(result.graph_module) == ["add_", "relu"]


def test_unused_submodules_go() -> None:
    graph = traced(nn.Sequential(nn.Linear(4, 4)), example(2, 4))
    graph.add_module("spare", nn.Sequential(nn.Linear(4, 4)))
    graph.register_buffer("rest", torch.zeros(3))
    result = passes.RemoveUnusedSubmodules()(graph)
    assert {site.path for site in result.rewritten} == {"spare", "rest"}
    assert list(result.graph_module.state_dict()) == ["0.weight", "0.bias"]
    assert "spare.0.weight" in graph.state_dict()


def test_simplify_reaches_its_fixed_point() -> None:
    graph = graph_of(
        lambda m, x: torch.relu(torch.relu(m.identity(m.conv(x))) * 0.5 * 2.0) * 3.0,
        conv=conv(),
        identity=nn.Identity(),
    )
    assert targets(passes.Simplify()(graph).graph_module) == ["Conv2d", "relu"]
    again = passes.Simplify()(passes.Simplify()(graph).graph_module)
    assert not again.modified


def test_simplify_keeps_what_it_declined_in_another_region() -> None:
    graph = graph_of(lambda m, x: m.drop(x), drop=nn.Dropout(0.5)).train()
    log = Log()
    for log.region in ("first", "second"):
        passes.Simplify().rewrite(graph, log)
    assert [site.node for site in log.declined] == ["first.drop", "second.drop"]


def test_neutral_arithmetic_on_sizes_goes_too() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2]
        return functional.pad(x, (0, (size - 0) * 1 + 0, 0, size * 2))

    graph = traced(Wrapped(function), example(2, 4, 3, 3))
    result = assert_rewrites(graph, passes.DropIdentities(), count=3)
    torch.testing.assert_close(result.graph_module(x := example(2, 4, 5, 3)), graph(x))


def test_a_size_over_one_is_a_float() -> None:
    graph = traced(Wrapped(lambda m, x: x * (x.shape[2] / 1)), example(2, 4, 3, 3))
    assert_rewrites(graph, passes.DropIdentities(), count=0)
