"""What changed in a node is told, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Wrapped, example, module_at, tiny, traced, with_scales
from torch import fx, nn

import fxprune
from fxprune.structures.gated_layers import layers


def changed(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    found = fxprune.diff(before, after)
    assert found.matched_by == "origin"
    return {change.main.name: change.what for change in found.changes if change.kind != "unchanged"}


class WithParameter(Wrapped):
    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__(function)
        self.p = nn.Parameter(torch.ones(3))


def fill(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.fill_(0.25)


@pytest.mark.parametrize(
    ("path", "edit", "what"),
    [
        ("stem.0", lambda layer: fill(layer.weight), ("kernel",)),
        ("head", lambda layer: fill(layer.bias), ("bias",)),
        ("stem.1", lambda layer: fill(layer.running_mean), ("value",)),
        ("stem.1", lambda layer: setattr(layer, "eps", 0.1), ("options",)),
        ("stem.0", lambda layer: setattr(layer, "padding_mode", "reflect"), ("options",)),
    ],
)
def test_one_change_of_a_layer(path: str, edit: Callable[[Any], None], what: tuple[str, ...]) -> None:
    graph = tiny()
    other = copy.deepcopy(graph)
    edit(module_at(other, path))
    assert changed(graph, other) == {path.replace(".", "_"): what}


def test_another_dtype() -> None:
    graph = tiny()
    other = copy.deepcopy(graph)
    other.get_submodule("head").float()
    assert changed(graph, other) == {"head": ("options",)}  # its numbers are float32's
    other.get_submodule("head").half()
    assert changed(graph, other) == {"head": ("kernel", "bias", "options")}  # rounded


def test_scales() -> None:
    graph = with_scales(tiny(), (1.0, 0.0))
    other = copy.deepcopy(graph)
    conv = next(layer for layer in layers(other) if layer.path == "block1.conv2")
    conv.assign(scale=0.5)
    assert changed(graph, other) == {"block1_conv2": ("scale",)}


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (lambda m, x: x * 0.5, lambda m, x: x * 0.25, ("options",)),
        (lambda m, x: x - m.p, lambda m, x: m.p - x, ("input",)),
        (lambda m, x: x + m.p, lambda m, x: m.p + x, ()),
        (lambda m, x: x.relu(), lambda m, x: torch.relu(x), ("op",)),
        (lambda m, x: torch.sum(x, dim=1), lambda m, x: torch.sum(x, dim=0), ("shape", "options")),
        (lambda m, x: torch.relu(x), lambda m, x: torch.relu(x), ()),
    ],
)
def test_one_change_of_a_call(before: Any, after: Any, what: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    graphs = [traced(WithParameter(function), example(2, 3)) for function in (before, after)]
    found = fxprune.diff(
        *graphs, results=[fxprune.PassResult(graphs[1], True)]
    )  # of two traces: says they are related
    assert [one for change in found.changes if change.op != "output" for one in change.what] == list(what)


def test_a_parameter_that_the_graph_reads() -> None:
    graph = traced(WithParameter(lambda m, x: x + m.p), example(2, 3))
    other = copy.deepcopy(graph)
    fill(other.p)  # type: ignore[arg-type]
    assert changed(graph, other) == {"p": ("value",)}


def test_tensors_without_data_are_compared_by_shape() -> None:
    graph = tiny().to("meta")
    assert changed(graph, copy.deepcopy(graph)) == {}
    other = copy.deepcopy(graph)
    other.get_submodule("stem.0").weight = nn.Parameter(torch.empty(6, 3, 5, 5, device="meta"))
    assert "kernel" in changed(graph, other)["stem_0"]


def test_the_same_object_is_equal_to_itself_even_where_it_holds_nan() -> None:
    graph = tiny()
    with torch.no_grad():
        graph.get_submodule("head").get_parameter("weight").fill_(float("nan"))
    assert changed(graph, graph) == {}
