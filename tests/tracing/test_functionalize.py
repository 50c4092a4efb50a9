"""In-place operations: a graph has none, and where one cannot be written otherwise, it stays as it is."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, targets, traced
from torch import nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.ir.trace_notes import opaque_modules


def test_in_place_ops_of_every_kind_become_functional() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = m.relu(m.first(x))
        functional.relu(y, inplace=True)
        y = functional.leaky_relu_(y, 0.1)
        y.mul_(2).add_(1)
        y -= x
        torch.sigmoid_(y)
        z: torch.Tensor = y * m.relu(m.second(x))
        return z

    layers: dict[str, Any] = {
        "first": nn.Conv2d(4, 4, 1),
        "second": nn.Conv2d(4, 4, 1),
        "relu": nn.ReLU(inplace=True),
    }
    model = Wrapped(function, **layers)
    graph = traced(model, example(2, 4, 3, 3))
    assert not [name for name in targets(graph) if name.endswith("_")]
    x = example(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(graph(x.clone()), model(x.clone()))
    assert layers["relu"].inplace


def test_an_in_place_op_on_a_view_that_is_read_later_is_left_alone() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        y.view(-1).add_(1)
        return y

    graph = fxprune.trace(Wrapped(function), torch.ones(2, 2))
    assert "write it out of place" in opaque_modules(graph)[0].reason
    torch.testing.assert_close(graph(-torch.ones(3, 3)), torch.ones(3, 3))


def test_an_in_place_op_that_would_change_the_dtype_is_left_alone() -> None:
    model = Wrapped(lambda m, x: torch.relu(x).add_(torch.ones(2, dtype=torch.float64)))
    graph = fxprune.trace(model, torch.ones(2))
    assert "dtype or shape" in opaque_modules(graph)[0].reason
    assert graph(torch.ones(2)).dtype == torch.float32


def test_a_residual_onto_the_models_input_and_an_in_place_relu_on_a_shortcut() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.relu(m.first(x) + x)
        z = m.second(y)
        y = m.relu(y)
        z += y
        return z  # type: ignore[no-any-return]

    layers = {"first": nn.Conv2d(4, 4, 3, padding=1), "second": nn.Conv2d(4, 4, 3, padding=1)}
    model = Wrapped(function, relu=nn.ReLU(inplace=True), **layers)
    graph = traced(model, example(2, 4, 5, 5))
    result = fxprune.Pipeline([passes.InsertResConv(), passes.FuseResConv(), passes.Simplify()])(graph)
    assert len(result.steps[0].result.rewritten) == 2
    torch.testing.assert_close(result.graph_module(example(3, 4, 6, 6)), model(example(3, 4, 6, 6)))


def test_outputs_in_one_container_are_not_one_tensor() -> None:
    def function(m: Any, x: torch.Tensor) -> Any:
        first = m.relu(m.first(x))
        return {"first": first, "second": m.relu(m.second(first))}

    layers = {"first": nn.Conv2d(4, 4, 1), "second": nn.Conv2d(4, 4, 1)}
    model = Wrapped(function, relu=nn.ReLU(inplace=True), **layers)
    graph = traced(model, example(2, 4, 5, 5))
    assert opaque_modules(graph) == []
    x = example(2, 4, 5, 5, seed=1)
    torch.testing.assert_close(graph(x), model(x))


class Sometimes(nn.Module):
    """Returns its input where its sum has a sign, and its opposite elsewhere."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.sign * x.sum() > 0 else -x


class Written(nn.Module):
    """Writes to what an op returned, or to what it was given, and returns both; it hides from no tracer."""

    def __init__(self, op: Callable[[Any, torch.Tensor], Any], onto: str) -> None:
        super().__init__()
        self.op, self.onto = op, onto
        self.dropout, self.alpha, self.dropout2d = nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Dropout2d(0.5)
        self.identity, self.flatten, self.unflatten = nn.Identity(), nn.Flatten(1), nn.Unflatten(1, (2, 2))
        self.positive, self.negative = Sometimes(1), Sometimes(-1)
        self.register_buffer("index", torch.tensor(1))

    def forward(self, x: torch.Tensor) -> Any:
        source = x * 2
        result = self.op(self, source)
        target = result if self.onto == "result" else source
        target.add_(1)
        return source * 3, result * 3


def _training(function: Callable[..., torch.Tensor], *args: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    return lambda m, x: function(x, *args, training=m.training)


ALIASES: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    **{f"F.{f.__name__}": _training(f, 0.5) for f in (functional.dropout, functional.dropout1d, functional.dropout2d,
       functional.alpha_dropout, functional.feature_alpha_dropout)},
    "no dropout": lambda m, x: functional.dropout(x, 0.0, True),
    "nn.Dropout": lambda m, x: m.dropout(x),
    "nn.AlphaDropout": lambda m, x: m.alpha(x),
    "nn.Dropout2d": lambda m, x: m.dropout2d(x),
    "nn.Identity": lambda m, x: m.identity(x),
    "nn.Flatten": lambda m, x: m.flatten(x),
    "nn.Unflatten": lambda m, x: m.unflatten(x),
    "opaque": lambda m, x: m.positive(x),
    "opaque otherwise": lambda m, x: m.negative(x),
    "to dtype": lambda m, x: x.to(torch.float32),
    "to wider dtype": lambda m, x: x.to(torch.float64),
    "to other": lambda m, x: x.to(m.index.float()),
    "to device": lambda m, x: x.to("cpu"),
    "to copy": lambda m, x: x.to(torch.float32, copy=True),
    "type": lambda m, x: x.type(torch.float32),
    "type_as": lambda m, x: x.type_as(torch.zeros(1)),
    "float": lambda m, x: x.float(),
    "double": lambda m, x: x.double(),
    "half": lambda m, x: x.half(),
    "cpu": lambda m, x: x.cpu(),
    "contiguous": lambda m, x: x.contiguous(),
    "channels last": lambda m, x: x.contiguous(memory_format=torch.channels_last),
    "expand": lambda m, x: x.expand(-1, -1, -1, x.shape[3]),
    "expand_as": lambda m, x: x.expand_as(x),
    "squeeze": lambda m, x: x.squeeze(),
    "squeeze of an axis": lambda m, x: x.squeeze(0),
    "reshape": lambda m, x: x.reshape(x.shape[0], -1),
    "reshape of a transposed one": lambda m, x: x.transpose(1, 2).reshape(x.shape[0], -1),
    "reshape_as": lambda m, x: x.reshape_as(x),
    "flatten": lambda m, x: x.flatten(1),
    "torch.flatten": lambda m, x: torch.flatten(x, 1),
    "ravel": lambda m, x: x.ravel(),
    "view": lambda m, x: x.view(x.shape[0], -1),
    "narrow": lambda m, x: x.narrow(1, 0, 4),
    "slice": lambda m, x: x[:, :, :6],
    "ellipsis": lambda m, x: x[...],
    "index": lambda m, x: x[m.index],
    "gathered": lambda m, x: x[m.index.reshape(1)],
    "chunk": lambda m, x: x.chunk(1)[0],
    "split": lambda m, x: torch.split(x, 6, 2)[0],
    "sum_to_size": lambda m, x: x.sum_to_size(x.shape[0], x.shape[1], x.shape[2], 6),
    "einsum": lambda m, x: torch.einsum("bchw->bchw", x),
    "detach": lambda m, x: x.detach(),
    "data": lambda m, x: x.data,
    "real": lambda m, x: x.real,
    "torch.real": lambda m, x: torch.real(x),
    "conj_physical": lambda m, x: torch.conj_physical(x),
    "resolve_conj": lambda m, x: x.resolve_conj(),
    "positive": lambda m, x: torch.positive(x),
    "atleast_3d": lambda m, x: torch.atleast_3d(x),  # type: ignore[no-untyped-call]
    "broadcast_tensors": lambda m, x: torch.broadcast_tensors(x, m.index)[0],  # type: ignore[no-untyped-call]
    "pad by nothing": lambda m, x: functional.pad(x, (0, 0)),
    "interpolate to its size": lambda m, x: functional.interpolate(x, x.shape[2:]),
    "pixel_shuffle by one": lambda m, x: functional.pixel_shuffle(x, 1),
    "channel_shuffle by one": lambda m, x: functional.channel_shuffle(x, 1),
    "mean over nothing": lambda m, x: x.mean((2, 3), keepdim=True),
    "concatenation of one": lambda m, x: torch.cat([x]),
    "leaky_relu": lambda m, x: functional.leaky_relu(x),
    "maximum": lambda m, x: torch.maximum(x, x),
    "where": lambda m, x: torch.where(x > -1e9, x, x),
}  # fmt: skip
SHAPES = [(2, 4, 6, 6), (1, 4, 6, 6), (2, 4, 8, 6), (3, 4, 6, 6), (2, 4, 1, 6)]


def _outcome(model: nn.Module, x: torch.Tensor) -> Any:
    """Return what ``model`` returns, or that it raises."""
    torch.manual_seed(0)
    try:
        return [y.detach().clone() for y in model(x.clone(memory_format=torch.preserve_format))]
    except Exception:
        return "raises"


@pytest.mark.parametrize("example_shape", [(2, 4, 6, 6), (1, 4, 6, 6)], ids=str)
@pytest.mark.parametrize("onto", ["result", "source"])
@pytest.mark.parametrize("name", ALIASES)
def test_writing_to_what_may_be_an_alias_is_exact_or_refused(
    name: str, onto: str, example_shape: tuple[int, ...]
) -> None:
    """In both modes, for other sizes, dtypes and layouts than the example's, as the model does it."""
    model = Written(ALIASES[name], onto)
    if "raises" in (_outcome(model, torch.ones(example_shape)), _outcome(model.eval(), torch.ones(example_shape))):
        pytest.skip("the model cannot do it either")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxprune.FxpruneWarning)
        graph = fxprune.trace(model, torch.ones(example_shape))
    inputs = [torch.rand(shape) - 0.5 for shape in SHAPES]
    inputs += [inputs[0].double(), inputs[0].contiguous(memory_format=torch.channels_last)]
    for training, x in itertools.product((False, True), inputs):
        expected, found = (_outcome(one.train(training), x) for one in (model, graph))
        if "raises" in (expected, found):
            assert found == "raises"  # an assumption of the example may not hold; nothing else comes out
            continue
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, msg=f"{training} {x.dtype} {x.shape} {x.stride()}")


@pytest.mark.parametrize("name", ["stochastic_depth", "drop_block2d"])
def test_what_torchvision_drops_in_train_mode_only_is_an_alias_too(name: str) -> None:
    ops = pytest.importorskip("torchvision.ops")
    drop = ops.StochasticDepth(0.5, "row") if name == "stochastic_depth" else ops.DropBlock2d(0.5, 3)
    for onto in ("result", "source"):
        model = Written(lambda m, x: m.drop(x), onto)
        model.drop = drop
        graph = fxprune.trace(model, torch.ones(2, 4, 6, 6))
        for training in (False, True):
            x = torch.rand(2, 4, 6, 6)
            expected, found = (_outcome(one.train(training), x) for one in (model, graph))
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
