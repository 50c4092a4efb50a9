"""Widths by one alpha: given, or found for a target; and the controls that nothing was looked at for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fake_latency import FakeLatency, plain
from torch import fx

import fxprune
from benchmarks import networks
from fxprune import Targets
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneValueError, TargetError
from fxprune.pruning.ucp.attention import insert_attention, measure_attention
from fxprune.pruning.ucp.controls import control_widths
from fxprune.pruning.ucp.widths import choose_widths

Gates = Mapping[str, np.ndarray]


def graph_of(name: str = "resnet20b") -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(getattr(networks, name)().eval(), torch.randn(2, 3, 32, 32))


def gates_of(graph: fx.GraphModule, seed: int = 0) -> Gates:
    """Return gates as different as trained ones may be: 0.4 to 0.6."""
    found = measure_attention(insert_attention(graph).graph_module, [torch.zeros(1, 3, 32, 32)])
    draw = np.random.default_rng(seed)
    return {path: draw.uniform(0.4, 0.6, len(one)) for path, one in found.items()}


def test_by_a_given_alpha_what_is_above_it_stays() -> None:
    graph = graph_of("vgg11")
    gates = gates_of(graph)
    found = choose_widths(graph, gates, alpha=0.95)
    expected = {path: (len(one), int((one > 0.95 * one.mean()).sum())) for path, one in gates.items()}
    assert found.widths == expected
    assert found.alpha == 0.95
    cut = found.plan.apply(graph).graph_module
    for path, (_, left) in expected.items():
        assert cut.get_submodule(path).out_channels == left
    assert [one.kind for one in found.plan.sites] == ["channels"] * 8


def test_alpha_is_the_lowest_that_meets_the_target() -> None:
    graph = graph_of()
    gates = gates_of(graph)
    found = choose_widths(graph, gates, Targets(macs=0.5))
    cut = found.plan.apply(graph, verify=False).graph_module
    assert total_macs(cut) <= 0.5 * total_macs(graph)
    lower = choose_widths(graph, gates, alpha=found.alpha * (1 - 1e-9))
    more = lower.plan.apply(graph, verify=False).graph_module
    assert total_macs(more) > 0.5 * total_macs(graph)
    assert choose_widths(graph, gates, alpha=found.alpha).widths == found.widths


def test_convs_of_a_stage_have_one_width() -> None:
    graph = graph_of()
    widths = choose_widths(graph, gates_of(graph), Targets(params=0.4)).widths
    for stage in (1, 2, 3):
        for conv in (1, 2):
            assert len({widths[f"layer{stage}.{block}.conv{conv}"] for block in range(3)}) == 1
    assert widths["layer2.0.shortcut.0"] == widths["layer2.0.conv2"]


def test_several_targets_and_memory_are_met() -> None:
    graph = graph_of("resnet20")
    gates = gates_of(graph)
    cut = choose_widths(graph, gates, Targets(macs=0.7, params=0.4)).plan.apply(graph, verify=False).graph_module
    assert total_params(cut) <= 0.4 * total_params(graph)
    assert total_macs(cut) <= 0.7 * total_macs(graph)
    assert choose_widths(graph, gates, Targets(memory=0.8)).alpha > 0


def test_a_time_is_met_as_it_is_measured() -> None:
    graph, latency = graph_of("resnet20"), FakeLatency(off=1.1)
    whole = latency.measured(plain(graph)).milliseconds
    found = choose_widths(graph, gates_of(graph), Targets(milliseconds=0.75 * whole), latency=latency)
    cut = found.plan.apply(graph, norms="fold", verify=False).graph_module
    assert found.timed is not None
    assert latency.measured(cut).milliseconds == pytest.approx(found.timed.best.measured)
    assert found.timed.best.measured <= 1.02 * 0.75 * whole


def test_what_is_kept_keeps_its_width() -> None:
    graph = graph_of("vgg11")
    widths = choose_widths(graph, gates_of(graph), Targets(macs=0.6), keep=["0", "25"]).widths
    assert widths["0"] == (64, 64)
    assert widths["25"] == (512, 512)
    assert widths["15"][1] < 512


def test_nothing_has_to_go_where_the_target_is_met() -> None:
    graph = graph_of("resnet20")
    found = choose_widths(graph, gates_of(graph), Targets(macs=1.0))
    assert (found.alpha, found.plan.sites) == (0.0, ())


def test_an_alpha_that_empties_a_layer_names_it_and_what_would_not() -> None:
    graph = graph_of("vgg11")
    gates = {**gates_of(graph), "18": np.linspace(0.49, 0.51, 512)}
    with pytest.raises(FxpruneValueError, match=r"alpha=1\.1 keeps no channel of 18: one below 1\.02 keeps one"):
        choose_widths(graph, gates, alpha=1.1)
    assert choose_widths(graph, gates, alpha=1.0199).widths["18"][1] == 2  # of every axis two stay


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "give targets, or alpha"),
        ({"alpha": 0.0}, "alpha is a share of the mean gate"),
        ({"alpha": float("nan")}, "alpha is a share of the mean gate"),
        ({"alpha": 0.9, "targets": Targets(macs=0.5)}, "exclude one another"),
        ({"alpha": "high"}, "choose_widths takes .* for alpha, got str"),
    ],
)
def test_what_makes_no_sense_is_told(options: dict[str, Any], told: str) -> None:
    graph = graph_of("resnet20")
    with pytest.raises(fxprune.FxpruneError, match=told) as caught:
        choose_widths(graph, {}, **options)
    assert "\n" not in str(caught.value)


def test_a_target_that_no_alpha_meets_says_what_can() -> None:
    graph = graph_of("vgg11")
    with pytest.raises(TargetError, match=r"ask for at least .* beyond which 18 keeps none; .* --what all"):
        choose_widths(graph, {**gates_of(graph), "18": np.linspace(0.4999, 0.5001, 512)}, Targets(macs=0.05))


def test_a_layer_whose_gates_are_alike_does_not_hold_the_others_back() -> None:
    graph = graph_of("vgg11")
    gates = {**gates_of(graph), "18": np.full(512, 0.5)}
    with pytest.warns(fxprune.FxpruneWarning, match="all gates behind 18 are alike"):
        found = choose_widths(graph, gates, Targets(macs=0.3))
    assert found.alpha > 1
    assert found.widths["18"] == (512, 512)
    assert all(after < before for path, (before, after) in found.widths.items() if path != "18")
    cut = found.plan.apply(graph, verify=False).graph_module
    assert total_macs(cut) <= 0.3 * total_macs(graph)


@pytest.mark.filterwarnings("ignore:all gates behind")
def test_gates_that_are_alike_everywhere_meet_no_target() -> None:
    graph = graph_of("vgg11")
    gates = {path: np.full(len(one), 0.5) for path, one in gates_of(graph).items()}
    with pytest.raises(TargetError, match="no gate tells channels apart: train for longer") as caught:
        choose_widths(graph, gates, Targets(macs=0.5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_controls_meet_the_same_counts(name: str, seed: int | None) -> None:
    graph = graph_of(name)
    for targets, total in ((Targets(macs=0.5), total_macs), (Targets(params=0.5), total_params)):
        found = control_widths(graph, targets, seed=seed)
        left = total(found.plan.apply(graph, verify=False).graph_module) / total(graph)
        assert 0.4 < left <= 0.5
        shares = [after / before for before, after in found.widths.values()]
        assert (max(shares) - min(shares) < 0.05) == (seed is None)


def test_a_control_needs_targets() -> None:
    with pytest.raises(FxpruneValueError, match="give targets"):
        control_widths(graph_of("resnet20"), Targets())
