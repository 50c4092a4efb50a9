"""An op that is not in the table is a barrier in every fact; with one row, it is right in every fact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, traced
from new_ops import ELEMENTWISE, FOREIGN, MOVEMENT, NEW, WINDOW, soft_clip
from torch import fx, nn
from torch.nn import functional

from fxprune import passes
from fxprune.costs.macs import total_macs, unknown_macs
from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.effects import is_foreign
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.overwriting import overwritten
from fxprune.facts.ranges import UNKNOWN, bounds_of_values
from fxprune.facts.shapes import shape, values_of
from fxprune.facts.updated_buffers import updated_values
from fxprune.ops import table
from fxprune.ops.op import Op
from fxprune.ops.table import row_of_target, with_rows

fx.wrap("soft_clip")
Function = Callable[[Any, torch.Tensor], Any]
# A call of each, in one spelling.
CALLS: dict[str, Function] = {
    "asinh": lambda m, x: x.asinh(),
    "lp_pool2d": lambda m, x: functional.lp_pool2d(x, norm_type=2, kernel_size=2, stride=1),
    "swapdims": lambda m, x: torch.swapdims(x, 2, dim1=3),
    "soft_clip": lambda m, x: soft_clip(x, 3.0),
}
BY_NAME = {op.name: op for op in NEW}


@pytest.fixture
def _rows() -> Iterator[None]:
    with with_rows(NEW):
        yield


def graph_of(function: Function, **layers: nn.Module) -> fx.GraphModule:
    return traced(Wrapped(function, **layers), example(2, 4, 6, 8))


def last(graph: fx.GraphModule) -> fx.Node:
    found: fx.Node = graph.graph.output_node().all_input_nodes[0]
    return found


def pair_of(name: str, **options: Any) -> tuple[fx.GraphModule, fx.Node, fx.Node]:
    """Return a graph that calls an op on a conv's value and on the conv's input, and both calls."""
    conv = nn.Conv2d(4, 4, 1, **options)
    graph = graph_of(lambda m, x: [CALLS[name](m, m.conv(x)), CALLS[name](m, x)], conv=conv)
    first, second = (node for node in graph.graph.output_node().all_input_nodes)
    return graph, first, second


@pytest.mark.parametrize("name", CALLS)
def test_without_a_row_it_is_a_barrier(name: str) -> None:
    node = last(graph_of(CALLS[name]))
    assert row_of_target(node.target) is None
    graph = graph_of(lambda m, x: CALLS[name](m, torch.relu(x)))
    assert bounds_of_values(graph)[last(graph)] == UNKNOWN
    assert not passes_factor(node, 2.0)
    pair, first, second = pair_of(name)
    assert not EqualShapes(pair).equal(first, second)


BOUNDS = {
    "asinh": (0.0, math.asinh(6.0)),
    "lp_pool2d": (0.0, math.inf),
    "swapdims": (0.0, 6.0),
    "soft_clip": (0.0, 3.0 * math.tanh(2.0)),
}


@pytest.mark.usefixtures("_rows")
@pytest.mark.parametrize("name", CALLS)
def test_with_its_row_it_has_bounds(name: str) -> None:
    graph = graph_of(lambda m, x: CALLS[name](m, functional.relu6(x)))
    assert bounds_of_values(graph)[last(graph)] == pytest.approx(BOUNDS[name])
    zeros = graph_of(lambda m, x: CALLS[name](m, x * 0.0))
    assert bounds_of_values(zeros)[last(zeros)] == (0.0, 0.0)


@pytest.mark.usefixtures("_rows")
@pytest.mark.parametrize("name", CALLS)
def test_with_its_row_its_shape_is_proved(name: str) -> None:
    graph, first, second = pair_of(name)
    assert EqualShapes(graph).equal(first, second)
    for size in ((1, 4, 5, 9), (3, 4, 7, 7)):
        values = values_of(graph, [example(*size)])
        assert values[first].shape == values[second].shape
    other, result, _ = pair_of(name, stride=2)
    assert not EqualShapes(other).equal(result, next(iter(other.graph.nodes)))
    assert shape(result) is not None


@pytest.mark.usefixtures("_rows")
@pytest.mark.parametrize("name", CALLS)
def test_with_its_row_its_factors_effects_memory_and_macs_are_known(name: str) -> None:
    op = BY_NAME[name]
    graph = graph_of(CALLS[name])
    node = last(graph)
    assert [passes_factor(node, factor) for factor in (2.0, -2.0)] == {
        "no": [False, False],
        "positive": [True, False],
        "all": [True, True],
    }[op.homogeneous]
    assert not is_foreign(node)
    assert total_macs(graph) == 0
    assert not unknown_macs(graph)
    unread = graph_of(lambda m, x: (CALLS[name](m, x), x)[1])
    dropped = passes.EliminateDeadCode()(unread).graph_module.graph
    assert [one.op for one in dropped.nodes] == ["placeholder", "output"]


@pytest.mark.usefixtures("_rows")
@pytest.mark.parametrize(("op", "is_new"), [(ELEMENTWISE, True), (WINDOW, True), (MOVEMENT, False), (FOREIGN, True)])
def test_with_its_row_it_is_known_whether_its_memory_is_new(op: Op, is_new: bool) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("state", torch.rand(2, 4, 6, 8))

        def forward(self, x: torch.Tensor) -> Any:
            state: Any = self.state
            y = CALLS[op.name](self, state)
            state.add_(1.0)
            return x, y

    graph = traced(Counting(), example(2, 4, 6, 8))
    value = graph.graph.output_node().args[0][1]  # type: ignore[index]
    assert (value not in updated_values(graph)) == is_new


@pytest.mark.usefixtures("_rows")
def test_nothing_is_overwritten_that_its_row_does_not_free() -> None:
    graph = graph_of(lambda m, x: functional.relu(m.conv(x).asinh()), conv=nn.Conv2d(4, 4, 1))
    assert overwritten(graph.graph) == {}


def test_other_packages_add_rows_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="ops", value="new_ops:NEW", group="fxprune.ops")
    monkeypatch.setattr(table, "entry_points", lambda group: [point] if group == "fxprune.ops" else [])
    with with_rows([]):  # reads the entry points anew
        assert row_of_target(torch.asinh) is ELEMENTWISE
        assert row_of_target(soft_clip) is FOREIGN
        monkeypatch.undo()
    assert row_of_target(torch.asinh) is None
