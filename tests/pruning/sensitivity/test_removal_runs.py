"""Runs without one thing compute what the network computes from which it was really cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from channel_nets import NETS
from helpers import TinyNet, randomize
from random_channel_nets import RandomNet
from torch import fx, nn

import fxprune
from fxprune.choosing.fingerprint import fingerprint
from fxprune.choosing.keeping import Kept
from fxprune.choosing.samples import Samples
from fxprune.ir.pytrees import tensors_in
from fxprune.passes import RemoveChannels
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.layer_sites import removing
from fxprune.pruning.sensitivity.removal_runs import Run, Runs
from fxprune.pruning.sensitivity.single_removals import Removals, SingleRemoval
from fxprune.structures.channels.groups import Channels


def removals_of(graph: fx.GraphModule, channels: Channels) -> list[SingleRemoval]:
    found = Removals(graph, ("convs", "branches", "channels"), Kept(), channels)
    return [*found.layers(), *found.channels("l1", Samples(()), (0.4,))]


def outputs_without_each(graph: fx.GraphModule, *inputs: torch.Tensor) -> list[tuple[SingleRemoval, Any]]:
    channels = Channels(graph)
    removals = removals_of(graph, channels)
    found: dict[Run, Any] = {}
    with torch.no_grad():
        Runs(channels).without_each(inputs, [one.run for one in removals], found.__setitem__)
    return [(one, found[one.run]) for one in removals]


def without(graph: fx.GraphModule, one: SingleRemoval) -> nn.Module:
    """Return the graph from which ``one`` is really cut."""
    if one.kind == "channels":
        indices = {site.path: list(site.indices) for site in one.planned}
        return RemoveChannels(indices=indices)(graph).graph_module
    plan = fxprune.PruningPlan(one.planned, fingerprint(graph))
    return Pipeline(removing(graph, None, {one.kind: plan.layers(one.kind)}), verify=False)(graph).graph_module


def assert_as_cut(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Return how many removals there were."""
    graph = fxprune.trace(randomize(model), tuple(one.double() for one in inputs))
    given = [torch.cat([one, one[:1]]).double() for one in inputs]
    compared = 0
    for one, found in outputs_without_each(graph, *given):
        cut = without(graph, one)
        with torch.no_grad():
            pairs = zip(tensors_in(cut(*given)), tensors_in(found), strict=True)
            for right, value in pairs:
                torch.testing.assert_close(
                    value, right, rtol=1e-8, atol=1e-9, msg=f"{one.kind} {one.path} {one.goes}"
                )
        compared += 1
    return compared


@pytest.mark.parametrize("name", list(NETS))
def test_runs_are_as_cut(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    assert_as_cut(model, *inputs)


@pytest.mark.parametrize("seed", range(4))
def test_runs_of_random_networks_are_as_cut(seed: int) -> None:
    torch.manual_seed(seed)
    assert_as_cut(RandomNet(seed), torch.randn(2, 3, 8, 8))


def test_convs_and_branches_are_as_cut() -> None:
    torch.manual_seed(0)
    assert assert_as_cut(TinyNet(), torch.randn(2, 3, 8, 8)) > 3


class Counted(nn.Module):
    """Three convs; the second and the third may go."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(ins, 4, 3, padding=1) for ins in (3, 4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.head(x.mean((2, 3)))


def test_what_comes_before_is_computed_once() -> None:
    graph = fxprune.trace(Counted().eval(), torch.randn(2, 3, 8, 8))
    calls = [0, 0, 0]

    def count(place: int) -> Any:
        def hook(*_: Any) -> None:
            calls[place] += 1

        return hook

    channels = Channels(graph)
    layers = list(Removals(graph, ("convs",), Kept(), channels).layers())
    assert [one.path for one in layers] == ["convs.1", "convs.2"]
    runs = Runs(channels)
    handles = [graph.get_submodule(f"convs.{place}").register_forward_hook(count(place)) for place in range(3)]
    with torch.no_grad():
        runs.without_each([torch.randn(2, 3, 8, 8)], [one.run for one in layers], lambda run, outputs: None)
    for handle in handles:
        handle.remove()
    assert calls == [1, 1, 1]  # the second once for all, the third in the run without the second


def test_the_graph_stays_as_it_was() -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(randomize(TinyNet()), torch.randn(2, 3, 8, 8).double())
    before, code = {name: value.clone() for name, value in graph.state_dict().items()}, graph.code
    outputs_without_each(graph, torch.randn(2, 3, 8, 8).double())
    assert graph.code == code
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())
