"""Shapes: told without computing anything, in either mode and whatever the data; what they say of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet, Wrapped, assert_state_equal, example, state_of, tiny, traced
from torch import fx

import fxprune
from fxprune.errors import LoadError, TraceError
from fxprune.facts.shapes import (
    META,
    UNCHECKED,
    is_floating,
    is_size,
    note_shape,
    propagate_shapes,
    renew_shapes,
    require_shapes,
    same_shape,
    shape,
    takes_dtype,
    tensor_meta,
    values_of,
)
from fxprune.ir.nodes import EXAMPLE_INPUTS

Function = Callable[[Any, torch.Tensor], Any]


def graph_of(function: Function, x: torch.Tensor | None = None) -> fx.GraphModule:
    return traced(Wrapped(function), example(2, 4, 6, 6) if x is None else x)


@pytest.mark.parametrize(
    ("function", "sizes", "floating", "size"),
    [
        (lambda m, x: torch.relu(x), (2, 4, 6, 6), True, False),
        (lambda m, x: x.float().flatten(1), (2, 144), True, False),
        (lambda m, x: x.sum(), (), True, False),
        (lambda m, x: x.argmax(1), (2, 6, 6), False, False),
        (lambda m, x: x > 0, (2, 4, 6, 6), False, False),
        (lambda m, x: x * 1j, (2, 4, 6, 6), False, False),
        (lambda m, x: x.chunk(2, 1), None, False, False),
        (lambda m, x: {"a": x.max(1)}["a"], None, False, False),
        (lambda m, x: x.shape, None, False, True),
        (lambda m, x: x.size(0) * 2, None, False, True),
        (lambda m, x: x.dtype, None, False, True),
    ],
)
def test_what_is_known_of_a_node(function: Function, sizes: Any, floating: bool, size: bool) -> None:
    graph = fx.symbolic_trace(Wrapped(function))
    propagate_shapes(graph, [example(2, 4, 6, 6)])
    node = graph.graph.output_node().all_input_nodes[0]
    assert (shape(node), is_floating(node), is_size(node)) == (sizes, floating, size)
    assert (tensor_meta(node) is None) == (sizes is None)
    del node.meta[META]
    assert (shape(node), is_floating(node), is_size(node)) == (None, False, False)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lambda x: torch.relu(x), True),
        (lambda x: x.transpose(2, 3), True),  # strides are no shape
        (lambda x: x.float(), False),
        (lambda x: x[:, :1], False),
        (lambda x: x.flatten(1), False),
    ],
)
def test_one_shape_is_one_dtype_too(other: Callable[[torch.Tensor], torch.Tensor], same: bool) -> None:
    graph = graph_of(lambda m, x: other(x))
    x, *_, output = graph.graph.nodes
    node = output.all_input_nodes[0]
    assert same_shape(x, node) == same_shape(node, x) == same
    node.meta.pop(META)
    assert not same_shape(x, node)
    assert not same_shape(node, node)


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda m, x: x.view(torch.int64), True),
        (lambda m, x: torch.softmax(x, 1, dtype=torch.float32), True),
        (lambda m, x: x.view(x.dtype), True),
        (lambda m, x: x.view(2, -1), False),
        (lambda m, x: torch.softmax(x, 1), False),
    ],
)
def test_who_is_given_a_dtype(function: Function, takes: bool) -> None:
    graph = fx.symbolic_trace(Wrapped(function))
    propagate_shapes(graph, [example(2, 4, 6, 6)])
    assert takes_dtype(graph.graph.output_node().all_input_nodes[0]) == takes


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_changed_and_shapes_are_those_of_a_run(training: bool) -> None:
    graph = tiny().train(not training)
    state, inputs, random_state = state_of(graph), example(3, 3, 10, 12), torch.get_rng_state()
    metas = [node.meta.get(META) for node in graph.graph.nodes]
    values = values_of(graph, [inputs], training=training)
    assert graph.training == (not training)
    assert_state_equal(graph, state)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [node.meta.get(META) for node in graph.graph.nodes] == metas  # of the example
    found = fx.Interpreter(graph.train(training), garbage_collect_values=False)
    found.run(inputs)
    for node, value in found.env.items():
        if isinstance(value, torch.Tensor):
            assert (values[node].shape, values[node].dtype) == (value.shape, value.dtype)


def test_shapes_that_depend_on_data_are_those_of_the_data() -> None:
    graph = fx.symbolic_trace(Wrapped(lambda m, x: x[x > 0]))
    for x in (torch.tensor([1.0, -1.0, 2.0]), torch.tensor([-1.0, -1.0])):
        propagate_shapes(graph, [x])
        assert shape(graph.graph.output_node().all_input_nodes[0]) == (int((x > 0).sum()),)


def test_views_have_the_memory_of_what_they_view() -> None:
    graph = graph_of(lambda m, x: (lambda y: (y.flatten(1), y + 1.0, y[:, 1:]))(torch.relu(x)))
    values, node = values_of(graph, [example(2, 4, 6, 6)]), {one.name: one for one in graph.graph.nodes}
    memory = {name: values.storages(one) for name, one in node.items()}
    assert memory["flatten"] == memory["getitem"] == memory["relu"]
    assert memory["relu"] not in (memory["x"], memory["add"])
    assert len(memory["output"]) == 3


def test_inputs_that_do_not_fit_are_told_with_node_and_path() -> None:
    with pytest.raises(TraceError, match=r"at node stem_0 \(module stem\.0\).*pass inputs of the shape"):
        values_of(fxprune.trace(TinyNet().eval(), torch.rand(2, 3, 8, 8)), [torch.rand(2, 4, 8, 8)])


def test_shapes_are_renewed_on_the_example_inputs_and_gone_without() -> None:
    graph = graph_of(lambda m, x: torch.relu(x))
    relu = graph.graph.output_node().all_input_nodes[0]
    note_shape(relu, torch.rand(7, dtype=torch.float16))
    assert (shape(relu), same_shape(relu, relu), is_floating(relu)) == ((7,), True, True)
    renew_shapes(graph)
    assert shape(relu) == (2, 4, 6, 6)
    del graph.meta[EXAMPLE_INPUTS]
    renew_shapes(graph)
    assert all(META not in node.meta for node in graph.graph.nodes)


@pytest.mark.parametrize("wrong", [torch.rand(2, 4, 6, 7).double(), torch.rand(2, 4, 6, 6).half()])
def test_shapes_that_a_file_told_are_checked_once(wrong: torch.Tensor) -> None:
    graph = graph_of(lambda m, x: torch.relu(x))
    relu = graph.graph.output_node().all_input_nodes[0]
    graph.meta[UNCHECKED] = True
    require_shapes(graph)
    note_shape(relu, wrong)
    require_shapes(graph)  # no file told these
    graph.meta[UNCHECKED] = True
    with pytest.raises(LoadError, match="what relu computes has another shape or dtype"):
        require_shapes(graph)
