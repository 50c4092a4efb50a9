"""What gates are ranked by: scales where they were trained, else weights or a criterion, on a copy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import assert_state_equal, state_of, tiny
from torch import fx

import fxprune
from fxprune import passes
from fxprune.choosing.ranking import ranked_by
from fxprune.errors import FxpruneError
from fxprune.structures.gated_layers import layers


def inserted() -> fx.GraphModule:
    return fxprune.insert_scales(tiny()).graph_module


def test_scales_that_were_trained_rank() -> None:
    graph = inserted()
    layers(graph)[0].assign(scale=0.5)
    ranking = ranked_by(graph, layers(graph), None)
    assert (ranking.name, ranking.is_guess) == ("scale", False)
    assert sorted(ranking.values.values())[0] == pytest.approx(0.5)


def test_untrained_ones_rank_by_their_weights_per_mac_and_that_is_said() -> None:
    graph = inserted()
    ranking = ranked_by(graph, layers(graph), None)
    assert (ranking.name, ranking.is_guess) == ("weight-norm", True)
    assert len(set(ranking.values.values())) == len(layers(graph))
    result = passes.RemoveLayers(target_macs=0.6)(graph)
    least = min(layers(graph), key=lambda gate: ranking.values[gate.node])
    assert result.rewritten[0].path == least.path
    assert "weight-norm per MAC" in result.rewritten[0].why
    assert "no scale was trained: layers are ranked by the norm of their weights per MAC" in result.warnings[0]


def test_damage_ranks_on_the_example_inputs_and_changes_nothing() -> None:
    graph = inserted()
    state, rests = state_of(graph), [gate.module.resting for gate in layers(graph)]
    result = passes.RemoveLayers(target_macs=0.6, rank="half-gate")(graph)
    assert "half-gate per MAC" in result.rewritten[0].why
    assert not any("no scale was trained" in line for line in result.warnings)
    assert_state_equal(graph, state)
    assert [gate.module.resting for gate in layers(graph)] == rests


def test_damage_sends_what_does_nothing_first() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_parameter("block2.bn2.weight").zero_()
        model.get_parameter("block2.bn2.bias").zero_()
    graph = fxprune.insert_scales(model, "branches").graph_module
    result = passes.RemoveLayers(target_macs=0.8, rank="half-gate")(graph)
    assert [site.path for site in result.rewritten] == ["block2.branch_scale"]


def test_a_criterion_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxprune.choosing.criteria.base import Criterion

    class LastFirst(Criterion):
        name = "last-first"

        @contextmanager
        def measuring(self, graph_module: Any, layers: Any, probe: Any) -> Any:
            order = {gate.path: index for index, gate in enumerate(layers)}
            missed: Callable[[Any], float] = lambda gate: 1.0 / (1 + order[gate.path])  # noqa: E731
            yield missed

    for module in ("ranking", "named"):
        monkeypatch.setattr(f"fxprune.choosing.{module}.known_criteria", lambda: {"last-first": LastFirst})
    monkeypatch.setattr("fxprune.passes.remove_layers.known_criteria", lambda: {"last-first": LastFirst})
    graph = fxprune.insert_scales(tiny(), "convs").graph_module
    result = passes.RemoveLayers(target_macs=0.9, rank="last-first")(graph)
    assert result.rewritten[0].path == layers(graph)[-1].path


def test_weights_that_are_nan_name_the_layer() -> None:
    graph = fxprune.insert_scales(tiny(), "convs").graph_module
    with torch.no_grad():
        graph.get_parameter("block1.conv2.conv.weight")[0] = float("nan")
    for rank in ("weight-norm", "l1", "half-gate"):
        with pytest.raises(FxpruneError, match=rf"{rank} of conv block1\.conv. is NaN: nothing can rank it"):
            passes.RemoveLayers(target_macs=0.9, rank=rank)(graph)


def test_a_criterion_of_channels_alone_is_refused() -> None:
    with pytest.raises(FxpruneError, match=r"apoz scores channels only, and block1\.conv1 is a conv: take half-gate"):
        passes.RemoveLayers(target_macs=0.9, rank="apoz")(fxprune.insert_scales(tiny(), "convs").graph_module)


def test_an_unknown_rank_is_refused_with_the_nearest() -> None:
    with pytest.raises(FxpruneError, match="unknown rank 'half-gat'; did you mean 'half-gate'"):
        passes.RemoveLayers(target_macs=0.5, rank="half-gat")
