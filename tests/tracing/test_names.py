"""What a model calls its parts, and the numbers that it counts with: Python code can say both, or it is one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Wrapped, example, load_source
from torch import fx, nn
from torch.nn import functional

import fxprune
from fxprune import passes
from fxprune.errors import EmitError, TraceError

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WORK = [
    "self",
    "class",
    "lambda",
    "None",
    "a b",
    "0-1",
    "résumé",
    "\ufb01",
    "graph",
    "torch",
    "forward",
    "__x",
    "len",
]
WORK_UNTIL_EMITTED = ['q"q', "back\\slash", "new\nline", "\ud800"]


class Named(nn.Module):
    """Holds a conv, a parameter or a buffer by any name, at any depth, beside one that has the name it may get."""

    def __init__(self, name: str, kind: str, inner: bool) -> None:
        super().__init__()
        self.last, self.holder = nn.Conv2d(4, 4, 3, padding=1), nn.Module()
        self.own, self.kind, self.inner = name, kind, inner
        for each in (name, f"{name}_1"):
            table: dict[str, Any] = getattr(self.owner, kind)
            made: Any = torch.randn(4, 1, 1)
            table[each] = nn.Conv2d(4, 4, 1) if kind == "_modules" else made
            if kind == "_parameters":
                table[each] = nn.Parameter(made)

    @property
    def owner(self) -> nn.Module:
        return self.holder if self.inner else self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = getattr(self.owner, self.kind)
        first, second = table[self.own], table[f"{self.own}_1"]
        y: torch.Tensor = second(x + first(x)) if self.kind == "_modules" else x * first + second
        z: torch.Tensor = self.last(y)
        return z


def compiled(model: nn.Module, inputs: torch.Tensor = X) -> fx.GraphModule:
    """Trace ``model`` and apply all passes; assert that nothing changes."""
    graph = fxprune.trace(model, inputs)
    sparse = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph).graph_module
    plain = fxprune.Pipeline([passes.RemoveLayers(threshold=0.0), *fxprune.AFTER_TRAINING])(sparse).graph_module
    for one in (graph, sparse, plain, pickle.loads(pickle.dumps(sparse))):
        torch.testing.assert_close(one(inputs), model(inputs))
    return plain


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("kind", ["_modules", "_parameters", "_buffers"])
@pytest.mark.parametrize("name", WORK)
def test_any_name_goes_all_the_way(tmp_path: Path, name: str, kind: str, inner: bool) -> None:
    torch.manual_seed(0)
    model = Named(name, kind, inner).double().eval()
    fxprune.emit(compiled(model), tmp_path)
    torch.testing.assert_close(fxprune.load_emitted(tmp_path)(X), model(X))
    torch.testing.assert_close(load_source(tmp_path)(X), model(X))


@pytest.mark.parametrize("kind", ["_modules", "_parameters", "_buffers"])
@pytest.mark.parametrize("name", WORK_UNTIL_EMITTED)
def test_a_name_that_no_file_may_hold_is_refused_in_one_line(tmp_path: Path, name: str, kind: str) -> None:
    graph = compiled(Named(name, kind, False).double().eval())
    try:
        fxprune.emit(graph, tmp_path / "out")
    except EmitError as error:
        refusal = str(error)
    else:
        refusal = ""
        fxprune.load_emitted(tmp_path / "out")
    assert "\n" not in refusal


class Keywords(nn.Module):
    def forward(self, x: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        return x + sum(others.values())


@pytest.mark.parametrize("name", ["class", "a b", "\ufb01"])
def test_an_input_that_code_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(TraceError, match=r"is given an input '.*'; give it another name"):
        fxprune.trace(Keywords(), X, {name: X})


NUMBERS: list[Any] = [np.float64(0.5), np.float32(0.5), np.int64(2), np.uint8(2)]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "compute",
    [
        lambda n, x: x * n,
        lambda n, x: n * x + n,
        lambda n, x: n - x / n,
        lambda n, x: x.add(x, alpha=n),
        lambda n, x: functional.leaky_relu(x, n),
        lambda n, x: torch.clamp(x, max=n) if x.shape[0] == n + 1 else x + n,
    ],
)
def test_numbers_of_numpy_are_numbers(tmp_path: Path, compute: Callable[[Any, Any], Any], number: Any) -> None:
    model = Wrapped(lambda m, x: compute(number, x)).eval()
    (x,) = (tensor.double() for tensor in (example(2, 4),))
    graph = fxprune.trace(model, x)
    torch.testing.assert_close(graph(x), model(x))
    assert "numpy" not in graph.code
    assert "np." not in graph.code
    fxprune.emit(graph, tmp_path)
    torch.testing.assert_close(fxprune.load_emitted(tmp_path)(x), model(x))


def test_sizes_and_flags_of_numpy_are_numbers() -> None:
    size: Any = np.int64(2)
    flag: Any = np.bool_(True)
    edge: Any = [np.int64(1), 1]
    model = Wrapped(lambda m, x: functional.pad(x.reshape(size, -1), edge) * flag).eval()
    graph = fxprune.trace(model, example(2, 4))
    torch.testing.assert_close(graph(example(2, 4)), model(example(2, 4)))
    kinds = {type(value) for node in graph.graph.nodes for value in (*node.args, *node.kwargs.values())}
    assert kinds.isdisjoint({np.int64, np.bool_})


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
def test_an_array_of_no_dimensions_is_a_number() -> None:
    half: Any = np.array(0.5)
    graph = fxprune.trace(Wrapped(lambda m, x: x * half).eval(), example(2, 4))
    torch.testing.assert_close(graph(example(2, 4)), example(2, 4) * 0.5)
    assert [node.args[1] for node in graph.graph.nodes if node.op == "call_function"] == [0.5]
