"""Shapes behind ResConvs and BranchScales are told without calling them, and are those that calls have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet, example, randomize, tiny
from random_nets import RandomNet
from torch import fx, nn
from torch.fx.passes.shape_prop import _extract_tensor_metadata

import fxprune
from fxprune import passes
from fxprune.facts.shapes import values_of
from fxprune.gates.branch_scale import BranchScale
from fxprune.gates.gate import ScaledLayer
from fxprune.gates.resconv import ResConv
from fxprune.ir.copies import copy_module
from fxprune.ir.nodes import called_module, example_inputs_of
from fxprune.ir.pytrees import map_tensors
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet

STATES: dict[str, Callable[[Any, int], object]] = {
    "open": lambda module, index: None,
    "closed": lambda module, index: module.close() if getattr(module, "removable", True) else None,
    "resting": lambda module, index: module.rest(),
    "mixed": lambda module, index: [lambda: None, module.close, module.rest][index % 3](),
}


class Reshaping(nn.Module):
    """Convs that change channels and sizes, with groups and without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Autocast(nn.Module):
    """A network that sets autocast itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: torch.Tensor = self.inner(x)
        return y


class OneDimension(nn.Module):
    """Residual sums of convs over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def gated(model: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    inserts = [passes.InsertResConv(include_reshaping=True), passes.InsertBranchScale()]
    return fxprune.Pipeline(inserts, verify=False)(fxprune.trace(model.eval(), x)).graph_module


NETWORKS: dict[str, Callable[[], fx.GraphModule]] = {
    "tiny": lambda: insert_scales(tiny(), "all", verify=False).graph_module,
    "resnet": lambda: gated(CifarResNet(depth=8), image(2, 3, 8, 8)),
    "reshaping": lambda: gated(Reshaping(), image(2, 3, 9, 9)),
    "channels-last": lambda: gated(
        Reshaping().to(memory_format=torch.channels_last), image(2, 3, 9, 9).to(memory_format=torch.channels_last)
    ),
    "weights-last": lambda: gated(TinyNet().to(memory_format=torch.channels_last), image(2, 3, 8, 8)),
    "images-last": lambda: gated(TinyNet(), image(2, 3, 8, 8).to(memory_format=torch.channels_last)),
    "one-of-a-size": lambda: gated(TinyNet(1), image(1, 3, 1, 1).to(memory_format=torch.channels_last)),
    "bfloat16": lambda: gated(TinyNet().bfloat16(), image(2, 3, 8, 8).bfloat16()),
    "autocast": lambda: gated(Autocast(), image(2, 3, 8, 8)),
    "sequences": lambda: gated(OneDimension(), image(2, 4, 8)),
    "transposed": lambda: gated(OneDimension(), image(2, 8, 4).transpose(1, 2)),
}


def told(graph: fx.GraphModule, training: bool) -> dict[str, Any]:
    values = values_of(graph, example_inputs_of(graph), training=training)
    return {node.name: values.metadata(node) for node in graph.graph.nodes}


def slowly(graph: fx.GraphModule, training: bool) -> dict[str, Any]:
    """Return what ``told`` returns with every gate called: a hook that does nothing keeps it from being passed by."""
    gates = [module for module in graph.modules() if isinstance(module, ScaledLayer)]
    hooks = [gate.register_forward_hook(lambda *_: None) for gate in gates]
    try:
        return told(graph, training)
    finally:
        for hook in hooks:
            hook.remove()


def run(graph: fx.GraphModule, training: bool) -> dict[str, Any]:
    """Return the metadata of what a run computes."""
    found: dict[str, Any] = {}

    class Keep(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            found[n.name] = map_tensors(value, _extract_tensor_metadata)
            return value

    with torch.no_grad():
        Keep(copy_module(graph).train(training)).run(*example_inputs_of(graph))
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_behind_gates_are_those_of_calls(name: str, state: str, training: bool) -> None:
    graph = NETWORKS[name]()
    for index, layer in enumerate(layers(graph)):
        STATES[state](layer.module, index)
    if training and name == "one-of-a-size":
        return  # a norm needs more than one value
    found, slow, real = told(graph, training), slowly(graph, training), run(graph, training)
    assert found == slow
    gates = [node.name for node in graph.graph.nodes if isinstance(called_module(node), ScaledLayer)]
    assert gates
    for gate in gates:
        assert found[gate].shape == real[gate].shape, gate
        assert found[gate].dtype == real[gate].dtype, gate
        assert found[gate].stride == real[gate].stride, gate


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning", "ignore:.* is opaque and hides")
@pytest.mark.parametrize("seed", range(8))
def test_shapes_behind_gates_of_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    try:
        traced = fxprune.trace(randomize(RandomNet(seed), seed), (example(2, 4, 7, 7), example(2, 4, 7, 7)))
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    graph = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(traced).graph_module
    assert told(graph, False) == slowly(graph, False)
    for index, layer in enumerate(layers(graph)):
        STATES["mixed"](layer.module, index)
    assert told(graph, False) == slowly(graph, False)


def test_a_closed_branch_has_the_memory_of_its_shortcut() -> None:
    graph = insert_scales(tiny(), "branches", verify=False).graph_module
    nodes = [node for node in graph.graph.nodes if isinstance(called_module(node), BranchScale)]
    for closed in (False, True):
        values = values_of(graph, example_inputs_of(graph))
        assert [values.storages(n) == values.storages(n.args[0]) for n in nodes] == [closed] * 2
        for layer in layers(graph):
            layer.module.close()


@pytest.mark.parametrize("training", [False, True])
def test_gates_are_not_called(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = insert_scales(tiny(), "all", verify=False).graph_module
    calls: list[nn.Module] = []
    for kind in (ResConv, BranchScale):
        monkeypatch.setattr(kind, "forward", lambda self, *_: calls.append(self))
    told(graph, training)
    assert not calls


def test_gates_double_the_time_at_most() -> None:
    traced = fxprune.trace(CifarResNet(depth=56).eval(), image(2, 3, 32, 32), check=False)
    graphs = traced, insert_scales(traced, "all", verify=False).graph_module

    def seconds(graph: fx.GraphModule) -> float:
        start = time.process_time()
        told(graph, False)
        return time.process_time() - start

    plain, with_gates = (min(seconds(graph) for _ in range(7)) for graph in graphs)
    assert with_gates < 2 * plain + 0.01
