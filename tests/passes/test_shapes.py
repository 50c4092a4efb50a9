"""After every pass the shapes in meta are true: our own passes see to it, those of others have it done for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers import TinyNet, example, randomize, tiny
from random_nets import RandomNet
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult as FxPassResult
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune import passes
from fxprune.costs.activation_memory import peak_activation_bytes
from fxprune.costs.macs import total_macs
from fxprune.errors import ContractError
from fxprune.facts.shapes import META, propagate_shapes
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import EXAMPLE_INPUTS, example_inputs_of, graphs_of
from fxprune.pipelines.chains import AFTER_TRAINING
from fxprune.pipelines.registry import known_passes
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.gated_layers import layers
from fxprune.training.cifar_resnet import CifarResNet


def halve(graph_module: fx.GraphModule) -> None:
    """Put convs of half the width in the place of the two convs of a pair."""
    graph_module.add_submodule("0", nn.Conv2d(3, 4, 3))
    graph_module.add_submodule("2", nn.Conv2d(4, 5, 3))


@dataclass(frozen=True)
class Halve(Pass):
    """Halve the width between two convs, without a word on shapes."""

    name: ClassVar[str] = "halve"
    contract: ClassVar[Contract] = Contract.SIGNATURE

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        halve(graph_module)
        log.rewrote(next(iter(graph_module.graph.nodes)), "half as wide")


def halve_as_in_fx(graph_module: fx.GraphModule) -> FxPassResult:
    halve(graph_module)
    return FxPassResult(graph_module, True)


def pair() -> fx.GraphModule:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))
    return fxprune.trace(model.eval(), torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("one", [Halve(), halve_as_in_fx])
def test_costs_are_true_after_a_pass_that_changes_inner_shapes(one: Any) -> None:
    graph = pair()
    result = fxprune.Pipeline([one])(graph)
    true = 9 * (3 * 4 * 7 * 7 + 4 * 5 * 5 * 5)
    assert result.steps[0].macs == total_macs(result.graph_module) == true
    assert f"{true:,}" in str(result)
    assert total_macs(graph) == 9 * (3 * 8 * 7 * 7 + 8 * 5 * 5 * 5)


def test_a_pass_alone_leaves_true_shapes_too_and_none_where_they_cannot_be_known() -> None:
    assert total_macs(Halve()(pair()).graph_module) == 9 * (3 * 4 * 7 * 7 + 4 * 5 * 5 * 5)
    graph = pair()
    del graph.meta[EXAMPLE_INPUTS]
    assert all(META not in node.meta for node in Halve()(graph).graph_module.graph.nodes)


class Hidden(nn.Module):
    """A pair of convs inside of what depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pair(x)
        return y if float(y.sum()) > 1e9 else 2 * y


def test_costs_are_true_inside_of_opaque_modules_too() -> None:
    @dataclass(frozen=True)
    class HalveInside(Halve):
        """Halve the width inside of regions."""

        def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
            if log.region:
                super().rewrite(graph_module, log)

    graph = fxprune.trace(nn.Sequential(Hidden(), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9))
    result = fxprune.Pipeline([HalveInside()])(graph)
    assert total_macs(graph) == 9 * (3 * 8 * 7 * 7 + 8 * 5 * 5 * 5)
    assert result.steps[0].macs == 9 * (3 * 4 * 7 * 7 + 4 * 5 * 5 * 5)


def test_a_graph_that_does_not_run_any_more_names_its_pass() -> None:
    @dataclass(frozen=True)
    class HalveOne(Halve):
        """Halve the first conv alone."""

        def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
            graph_module.add_submodule("0", nn.Conv2d(3, 4, 3))
            log.rewrote(next(iter(graph_module.graph.nodes)), "half as wide")

    with pytest.raises(ContractError, match=r"pass halve left a graph that does not run: .*module 2"):
        HalveOne()(pair())


def metas(graph: fx.GraphModule) -> list[Any]:
    return [dict(node.meta) for _, one in graphs_of(graph) for node in one.graph.nodes]


def test_asking_for_activation_memory_changes_nothing() -> None:
    graph = pair()
    halve(graph)  # by hand: what meta tells is of before
    before, macs = metas(graph), total_macs(graph)
    peak_activation_bytes(graph)
    assert metas(graph) == before
    assert total_macs(graph) == macs


def kinds(value: Any) -> Any:
    if isinstance(value, (tuple, list)) and not hasattr(value, "memory_format"):
        return [kinds(part) for part in value]
    return (value.shape, value.dtype) if hasattr(value, "memory_format") else value


def assert_true_shapes(graph: fx.GraphModule) -> None:
    """Assert that the shapes in meta, of regions too, are those that are worked out anew."""
    for (_, told), (_, anew) in zip(graphs_of(graph), graphs_of(copy_graph_module(graph)), strict=True):
        propagate_shapes(anew, example_inputs_of(anew))
        for node, true in zip(told.graph.nodes, anew.graph.nodes, strict=True):
            assert META in node.meta, node
            assert kinds(node.meta[META]) == kinds(true.meta[META]), node


class Opaque(nn.Module):
    """A part that depends on data, with blocks inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y if float(y.sum()) > 1e9 else 2 * y


class Normed(nn.Module):
    """Convs whose weights are computed, and a residual sum of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(3, 3, 3, padding=1))
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))
        self.head = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x) + nn.functional.conv2d(x, self.weight - self.weight.mean())
        return self.head(y) + y  # type: ignore[no-any-return]


def networks() -> dict[str, fx.GraphModule]:
    x = example(2, 3, 6, 6)
    found = {"tiny": tiny(), "resnet": fxprune.trace(randomize(CifarResNet(depth=8)), example(2, 3, 8, 8))}
    for name, model in (("opaque", Opaque()), ("normed", Normed())):
        found[name] = fxprune.trace(randomize(model), x)
    return found


@pytest.fixture(scope="module")
def stages() -> list[fx.GraphModule]:
    """Graphs as they are between passes: traced, with gates, with some closed, and without them."""
    torch.manual_seed(0)
    found = []
    for graph in networks().values():
        inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()])(graph)
        sparse = inserted.graph_module
        for index, layer in enumerate(layers(sparse)):
            if index % 3 == 0:
                layer.module.close()
        removed = passes.RemoveLayers(threshold=0.0)(sparse).graph_module
        steps = fxprune.Pipeline(AFTER_TRAINING, verify=False)(removed).steps
        found += [graph, sparse, removed, *(step.result.graph_module for step in steps)]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", known_passes())
def test_shapes_in_meta_are_true_after_each_pass(name: str, stages: list[fx.GraphModule]) -> None:
    # our own see to it themselves, but where most shapes change
    assert known_passes()[name].changes_shapes == (name in ("partition-linear", "remove-channels", "split-attention"))
    for graph in stages:
        options = {"reference": graph} if name == "repair" else {}
        assert_true_shapes(known_passes()[name](**options)(graph).graph_module)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning", "ignore:.* is opaque and hides")
@pytest.mark.parametrize("seed", range(12))
def test_shapes_in_meta_are_true_along_a_pipeline_of_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    chance = random.Random(seed)
    try:
        graph = fxprune.trace(randomize(RandomNet(seed), seed), (example(2, 4, 7, 7), example(2, 4, 7, 7)))
    except fxprune.FxpruneError as error:
        assert "write it out of place" in str(error)  # noqa: PT017  # a decline, with the reason
        return
    inserted = fxprune.Pipeline([passes.InsertResConv(), passes.InsertBranchScale()], verify=False)(graph)
    for layer in layers(inserted.graph_module):
        module: Any = layer.module
        module.assign(scale=chance.choice([0.0, 1.0, -0.7]))
    chain = [passes.RemoveLayers(threshold=0.0), *AFTER_TRAINING]
    removed = fxprune.Pipeline(chain, verify=False)(inserted.graph_module)
    for step in (*inserted.steps, *removed.steps):
        assert_true_shapes(step.result.graph_module)
