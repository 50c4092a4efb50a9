"""Proximal steps, groups, strengths, reports."""

from __future__ import annotations

import pytest
import torch
from helpers import TinyNet, resconvs, tiny
from torch import fx

import fxprune
from fxprune import passes, pruning


def sparse_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    graph = fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8))
    return passes.InsertResConv()(graph).graph_module


def test_the_proximal_step_shrinks_gates_to_exact_zero() -> None:
    graph = sparse_graph()
    shrink = fxprune.ProximalL1(graph, strength=0.3)
    for _ in range(3):
        shrink.step(lr=1.0)
    assert [layer.gate.item() for _, layer in resconvs(graph)] == pytest.approx([0.1] * 4)
    assert shrink.zeros == []
    shrink.step(lr=1.0)
    assert shrink.zeros == ["block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2"]
    assert all(layer.effective_scale == 0 for _, layer in resconvs(graph))


def test_the_free_parametrisation_is_soft_thresholded() -> None:
    graph = passes.InsertResConv(parametrization="free")(tiny()).graph_module
    ((_, first), (_, second), *_) = resconvs(graph)
    first.assign(scale=-0.5)
    second.assign(scale=0.05)
    fxprune.ProximalL1(graph, strength=0.1).step(lr=1.0)
    assert first.coefficients()[0] == pytest.approx(-0.4)
    assert second.coefficients()[0] == 0


def test_strengths_by_layer() -> None:
    graph = sparse_graph()
    fxprune.ProximalL1(graph, {"block1.conv2": 0.5}).step(lr=1.0)
    assert [layer.gate.item() for _, layer in resconvs(graph)] == [1.0, 0.5, 1.0, 1.0]
    with pytest.raises(fxprune.FxpruneError, match=r"block9, which is no scaled layer"):
        fxprune.ProximalL1(graph, {"block9": 0.5})


def test_macs_weighted_strengths_have_the_mean_that_was_asked_for() -> None:
    graph = fxprune.trace(
        torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 3, padding=1)), torch.randn(2, 4, 6, 6)
    )
    strengths = pruning.macs_weighted(passes.InsertResConv()(graph).graph_module, 0.1)
    assert strengths == pytest.approx({"0": 0.02, "1": 0.18})


def test_a_graph_without_resconvs_is_refused() -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"put scales in first, with insert-resconv"):
        fxprune.ProximalL1(tiny())


def test_the_plain_l1_term_is_differentiable() -> None:
    graph = sparse_graph()
    term = pruning.l1_term(graph)
    assert term.item() == 4
    term.backward()  # type: ignore[no-untyped-call]
    assert all(float(layer.gate.grad) == 1 for _, layer in resconvs(graph) if layer.gate.grad is not None)
    assert pruning.l1_term(tiny()).item() == 0


def test_scales_have_no_weight_decay() -> None:
    graph = sparse_graph()
    decayed, rest = pruning.parameter_groups(graph, 0.1)
    assert {id(p) for p in decayed["params"]}.isdisjoint(id(layer.gate) for _, layer in resconvs(graph))
    assert rest["weight_decay"] == 0
    assert len(decayed["params"]) + len(rest["params"]) == len(list(graph.parameters()))


def test_the_report_lists_every_layer() -> None:
    graph = sparse_graph()
    next(layer for _, layer in resconvs(graph)).assign(scale=0.25, shortcut=0.5)
    text = pruning.report(graph)
    assert "block1.conv1" in text
    assert "0.2500" in text
    assert "0.5000" in text


def test_a_negative_strength_is_refused() -> None:
    sparse = passes.InsertResConv()(tiny()).graph_module
    for strength in (-1.0, {next(iter(pruning.ProximalL1(sparse).layers)): -1.0}):
        with pytest.raises(fxprune.FxpruneError, match="must not be negative"):
            pruning.ProximalL1(sparse, strength)
