"""InsertResConv: fires on every eligible conv, keeps the function, says why not."""

from __future__ import annotations

import pytest
import torch
from helpers import TinyNet, assert_rewrites, example, resconvs, targets, tiny, traced
from torch import nn

import fxprune
from fxprune import passes
from fxprune.pipelines.chains import AFTER_TRAINING


def test_it_wraps_conv_and_norm_and_keeps_the_function() -> None:
    result = assert_rewrites(tiny(), passes.InsertResConv(), count=4)
    assert [str(node.target) for node, _ in resconvs(result.graph_module)] == [
        "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2",
    ]  # fmt: skip
    assert all(isinstance(layer.norm, nn.BatchNorm2d) for _, layer in resconvs(result.graph_module))
    assert "bn1" not in dict(result.graph_module.get_submodule("block1").named_children())


def test_declines_carry_reasons() -> None:
    result = passes.InsertResConv()(tiny())
    assert [(site.path, site.why) for site in result.declined] == [("stem.0", "it changes the channels (3 -> 6)")]


def test_what_the_user_keeps_is_declined_reshaping_or_not() -> None:
    result = assert_rewrites(tiny(), passes.InsertResConv(keep=["block1", "*.conv2"]), count=1)
    assert {site.path for site in result.declined if site.why == "kept by the user"} == {
        "block1.conv1", "block1.conv2", "block2.conv2"
    }  # fmt: skip
    result = passes.InsertResConv(include_reshaping=True, keep=["stem"])(tiny())
    assert [str(site) for site in result.declined] == [
        "stem.0: kept by the user, and it changes the channels (3 -> 6)"
    ]


def test_without_norm() -> None:
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), example(2, 4, 6, 6))
    result = assert_rewrites(graph, passes.InsertResConv(), count=1)
    assert targets(result.graph_module) == ["ResConv", "ReLU"]


def test_the_input_size_is_measured_on_the_example_when_training_begins() -> None:
    x = 3 * example(2, 4, 6, 6)
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), x)
    sparse = passes.InsertResConv()(graph).graph_module
    ((_, layer),) = resconvs(sparse)
    assert float(layer.input_rms) == 1
    fxprune.ProximalL1(sparse)
    assert float(layer.input_rms) == pytest.approx(float(x.square().mean().sqrt()), rel=1e-6)


def test_a_layer_that_was_trained_keeps_its_unit() -> None:
    sparse = passes.InsertResConv()(traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), example(2, 4, 6, 6)))
    ((_, layer),) = resconvs(sparse.graph_module)
    layer.gate.data.fill_(0.5)
    fxprune.ProximalL1(sparse.graph_module)
    assert float(layer.input_rms) == 1


def test_an_input_that_is_zero_is_no_unit() -> None:
    graph = traced(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), torch.zeros(2, 4, 6, 6))
    sparse = assert_rewrites(graph, passes.InsertResConv(), count=1).graph_module
    fxprune.ProximalL1(sparse)
    ((_, layer),) = resconvs(sparse)
    assert float(layer.input_rms) == 1


def test_a_shortcut_changes_values_but_not_the_signature() -> None:
    one = passes.InsertResConv(shortcut=1.0, parametrization="free")
    assert one.contract is fxprune.Contract.SIGNATURE
    sparse = fxprune.Pipeline([one])(tiny()).graph_module
    for _, layer in resconvs(sparse):
        assert layer.coefficients() == (1.0, 1.0)


def test_a_model_in_float32_is_verified_to_1e_9_too() -> None:
    graph = fxprune.trace(TinyNet(), torch.randn(2, 3, 8, 8))
    result = fxprune.Pipeline([passes.InsertResConv()])(graph)
    assert result.max_relative is not None
    assert result.max_relative <= 1e-12


def test_a_graph_without_example_inputs_is_refused_with_what_to_do() -> None:
    graph = torch.fx.symbolic_trace(TinyNet())
    assert all("fxprune.trace" in site.why for site in passes.InsertResConv()(graph).declined)
    with pytest.raises(fxprune.FxpruneError, match=r"fxprune\.trace"):
        fxprune.Pipeline([passes.InsertResConv()])(graph)


def test_reshaping_convs_on_request_are_trained_but_never_removed() -> None:
    result = assert_rewrites(tiny(), passes.InsertResConv(include_reshaping=True), count=5)
    sparse = result.graph_module
    assert not result.declined
    assert len(resconvs(sparse)) == 4
    stem = sparse.get_submodule("stem.0")
    assert isinstance(stem, fxprune.ResConv)
    assert not stem.removable
    for layer in (m for m in sparse.modules() if isinstance(m, fxprune.ResConv)):
        layer.assign(scale=0.0, shortcut=1.0)
    removed = passes.RemoveLayers()(sparse)
    assert len(removed.rewritten) == 4
    with pytest.raises(ValueError, match="cannot be closed"):
        stem.close()
    compiled = fxprune.Pipeline([passes.RemoveLayers(), *AFTER_TRAINING])(sparse).graph_module
    assert "ResConv" not in targets(compiled)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3), "changes the shape"),  # it crops: no partial identity
        (nn.Conv2d(4, 8, 1, padding=1), "no tap"),
        (nn.Conv2d(4, 8, 3, padding=2), "pads more than its kernel spans"),
        (nn.Conv2d(4, 8, 3, padding=1, dilation=2, stride=2), "no tap"),
    ],
)
def test_what_cannot_be_reshaped_says_why(layer: nn.Module, reason: str) -> None:
    graph = traced(nn.Sequential(layer), example(2, 4, 9, 9))
    result = assert_rewrites(graph, passes.InsertResConv(include_reshaping=True), count=0)
    assert reason in result.declined[0].why
