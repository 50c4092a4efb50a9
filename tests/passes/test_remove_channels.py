"""RemoveChannels: which go, by what is asked for; what is refused; what is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchvision
from channel_nets import NETS
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.errors import FxpruneError, FxpruneTypeError, FxpruneValueError
from fxprune.pipelines.registry import parse_passes
from fxprune.rewriting.contract import Contract


def traced(name: str = "Dense") -> fx.GraphModule:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    return fxprune.trace(model.eval(), inputs)


def conv_at(graph: fx.GraphModule, path: str) -> Any:
    return graph.get_submodule(path)


def test_a_ratio_takes_that_share_of_each_group() -> None:
    graph = traced()
    result = passes.RemoveChannels(ratio=0.5)(graph)
    assert conv_at(result.graph_module, "stem.0").out_channels == 4
    assert conv_at(result.graph_module, "convs.2").out_channels == 2
    assert conv_at(result.graph_module, "head").in_channels == 10
    assert conv_at(graph, "stem.0").out_channels == 8  # the input stays
    told = next(str(site) for site in result.rewritten if site.path == "stem.0")
    assert re.fullmatch(r"stem.0: 8 -> 4 channels; without \d, \d, \d, \d, worth least by l1", told)
    assert "were cut that were not zero" in result.warnings[0]
    assert result.graph_module(torch.randn(3, 3, 9, 9)).shape == (3, 5, 9, 9)


def test_those_with_the_smallest_rows_go() -> None:
    graph = traced("ParametricRelu")
    weight = conv_at(graph, "layers.0").weight
    with torch.no_grad():
        weight[::2] *= 1e-3
    kept = conv_at(passes.RemoveChannels(ratio=0.5)(graph).graph_module, "layers.0").weight
    torch.testing.assert_close(kept.abs().sum((1, 2, 3)).min() > 0.1, torch.tensor(True))


def test_random_ones_go_by_their_seed() -> None:
    graph = traced()

    def kept(seed: int) -> torch.Tensor:
        found = passes.RemoveChannels(ratio=0.5, criterion="random", seed=seed)(graph)
        weight: torch.Tensor = conv_at(found.graph_module, "stem.0").weight
        return weight

    assert torch.equal(kept(0), kept(0))
    assert not all(torch.equal(kept(0), kept(seed)) for seed in range(1, 4))


def test_indices_take_what_goes_together_with_them() -> None:
    graph = traced("SqueezeExcite")
    result = passes.RemoveChannels(indices={"stem.0": [1, -1]})(graph)
    kept = [0, 2, 3, 4, 5, 6]
    assert torch.equal(conv_at(result.graph_module, "stem.0").weight, conv_at(graph, "stem.0").weight[kept])
    assert torch.equal(conv_at(result.graph_module, "up").weight, conv_at(graph, "up").weight[kept])
    assert torch.equal(conv_at(result.graph_module, "head").weight, conv_at(graph, "head").weight[:, kept])


def test_what_nobody_reads_goes_and_is_no_change_of_values() -> None:
    graph = traced("ParametricRelu")
    with torch.no_grad():
        conv_at(graph, "layers.2").weight[:, [0, 5]] = 0
    step = passes.RemoveChannels()
    assert step.contract is Contract.VALUES
    assert passes.RemoveChannels(ratio=0.5).contract is Contract.SIGNATURE
    result = fxprune.Pipeline([step], verify=True)(graph)
    assert conv_at(result.graph_module, "layers.0").out_channels == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio is a share above 0 and below 1"),
        ({"ratio": 0.0}, "ratio is a share above 0 and below 1"),
        ({"ratio": -0.5}, "ratio is a share above 0 and below 1"),
        ({"ratio": 0.5, "criterion": "taylr"}, "unknown criterion 'taylr'; did you mean 'taylor'"),
        ({"target_macs": 50}, "target_macs is the share of the MACs to leave, in (0, 1]; got 50"),
        ({"ratio": 0.5, "target_params": 0.5}, "ratio and targets exclude one another"),
        ({"scope": "global"}, "scope='global' needs a ratio or a target"),
        ({"ratio": 0.5, "scope": "all"}, "RemoveChannels takes 'uniform' or 'global' for scope"),
        ({"ratio": 0.5, "multiple_of": 2.5}, "RemoveChannels takes a whole number for multiple_of"),
        ({"groups": "all"}, "RemoveChannels takes 'within' or 'whole' for groups"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneError, match=re.escape(message)):
        passes.RemoveChannels(**options)


def test_options_as_text() -> None:
    text = "remove-channels{ratio=0.5,criterion=l2,multiple_of=8,least=0.25,scope=global,normalize=lamp}"
    (step,) = parse_passes(text)
    options = {"criterion": "l2", "multiple_of": 8, "least": 0.25, "normalize": "lamp"}
    assert step == passes.RemoveChannels(ratio=0.5, scope="global", **options)  # type: ignore[arg-type]
    assert step.contract is Contract.SIGNATURE
    (step,) = parse_passes("remove-channels{target_macs=0.5,least=4}")
    assert step == passes.RemoveChannels(target_macs=0.5, least=4)
    assert step.contract is Contract.SIGNATURE
    hash(passes.RemoveChannels(ratio={"stem": 0.5}))


def test_a_stage_that_there_is_not() -> None:
    with pytest.raises(FxpruneValueError, match=r"ratio has 'stme', which matches no module .* 'stem'"):
        passes.RemoveChannels(ratio={"stme": 0.5})(traced())


def test_what_channels_were_compared_on_is_told() -> None:
    graph = traced()
    told = "channels were compared on the graph's 2 example inputs; give data= (fxprune run --data)"
    assert told in passes.RemoveChannels(ratio=0.5, criterion="apoz")(graph).warnings
    data = [(torch.randn(4, 3, 8, 8), torch.randint(5, (4, 8, 8)))]
    for criterion in ("apoz", "taylor"):
        found = passes.RemoveChannels(ratio=0.5, criterion=criterion, data=data)(graph)
        assert found.modified
        assert told not in found.warnings
    assert told not in passes.RemoveChannels(ratio=0.5)(graph).warnings
    with pytest.raises(FxpruneValueError, match="criterion taylor needs labels: give data="):
        passes.RemoveChannels(ratio=0.5, criterion="taylor", data=[torch.randn(4, 3, 8, 8)])(graph)


def test_named_ones_go_beside_those_of_a_ratio() -> None:
    graph = traced("ParametricRelu")
    worth = conv_at(graph, "layers.0").weight.abs().sum((1, 2, 3))
    best = int(worth.argmax())
    result = passes.RemoveChannels(ratio=0.5, indices={"layers.0": [best]})(graph)
    told = next(str(site) for site in result.rewritten if site.path == "layers.0")
    assert conv_at(result.graph_module, "layers.0").out_channels == 12 - 7
    assert f" {best}," in told


def test_indices_of_the_wrong_kind() -> None:
    with pytest.raises(FxpruneTypeError, match="for indices"):
        passes.RemoveChannels(indices=[1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ({"stem.00": [0]}, "indices has 'stem.00', which is no layer whose channels can be named; did you mean"),
        ({"stem.0": [8]}, "indices has channel 8 of stem.0, which has 8: 0 to 7"),
        ({"stem.0": list(range(8))}, "channels of .* 0 would be left, and two stay at least"),
    ],
)
def test_indices_that_there_are_not(indices: dict[str, list[int]], message: str) -> None:
    with pytest.raises(FxpruneValueError, match=message):
        passes.RemoveChannels(indices=indices)(traced())


def test_indices_of_what_stays_are_told() -> None:
    result = passes.RemoveChannels(indices={"head": [0]})(traced())
    assert not result.modified
    assert result.warnings[0].startswith("channel 0 of head stays: output: an output of the network")


def test_weights_that_are_not_numbers() -> None:
    graph = traced()
    with torch.no_grad():
        conv_at(graph, "convs.1").weight[0] = float("nan")
    with pytest.raises(FxpruneValueError, match=r"the weights of convs\.1 hold NaN"):
        passes.RemoveChannels(ratio=0.5)(graph)


def test_kept_layers_keep_their_outputs() -> None:
    result = passes.RemoveChannels(ratio=0.5, keep=["convs.1"])(traced())
    assert conv_at(result.graph_module, "convs.1").out_channels == 4
    assert conv_at(result.graph_module, "convs.1").in_channels == 6
    assert any(site.path == "convs.1" and site.why == "kept by the user" for site in result.declined)


def test_nothing_is_silently_nothing() -> None:
    found = passes.RemoveChannels()(traced())
    assert not found.modified
    assert found.warnings == (
        "every channel is read: close gates of InsertChannelGate first, or give a ratio, or indices of those "
        "that shall go",
    )
    only = fxprune.trace(nn.Conv2d(3, 8, 1).eval(), torch.randn(2, 3, 4, 4))
    (warning,) = passes.RemoveChannels(ratio=0.5)(only).warnings
    assert warning.startswith("no channel can go: an output of the network")


NAMED = ("resnet18", "vgg11_bn", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5", "efficientnet_b0", "mnasnet0_5")


@pytest.mark.parametrize("name", [*NAMED, "convnext_tiny"])
def test_the_graph_has_no_op_that_the_network_lacked(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    graph = fxprune.trace(model, torch.randn(1, 3, 64, 64), check=False)
    cut = passes.RemoveChannels(ratio=0.5, criterion="random")(graph).graph_module

    def ops(one: fx.GraphModule) -> dict[str, int]:
        found: dict[str, int] = {}
        for node in one.graph.nodes:
            called = type(one.get_submodule(node.target)).__name__ if node.op == "call_module" else str(node.target)
            called = "chunk" if node.target == "split" else called
            found[called] = found.get(called, 0) + 1
        return found

    before, after = ops(graph), ops(cut)
    assert all(count <= before.get(called, 0) for called, count in after.items())


def test_a_second_run_changes_nothing_and_the_diff_tells() -> None:
    graph = traced("SplitShuffle")
    cut = passes.RemoveChannels(ratio=0.5)(graph).graph_module
    assert not passes.RemoveChannels()(cut).modified
    told = str(fxprune.diff(graph, cut))
    assert "Conv2d 3x3, 3 -> 16 -> 3x3, 3 -> 10" in told
    assert "@@ stem @@" in told


def test_a_threshold_takes_what_training_has_nearly_closed() -> None:
    torch.manual_seed(0)
    model, inputs = NETS["Dense"]()
    gated = passes.InsertChannelGate()(fxprune.trace(model.eval(), inputs)).graph_module
    for gate in fxprune.gates_of(gated):
        gate.assign(scale=torch.linspace(0.005, 1, gate.width))
    exact = passes.RemoveChannels()(gated)
    assert not exact.modified
    near = passes.RemoveChannels(threshold=0.01)
    assert (passes.RemoveChannels().contract, near.contract) == (Contract.VALUES, Contract.SIGNATURE)
    result = near(gated)
    for before, after in zip(fxprune.gates_of(gated), fxprune.gates_of(result.graph_module), strict=True):
        assert (before.width - after.width, float(after.scale.min()) > 0.01) == (1, True)
    assert any("whose scales are at most 0.01" in site.why for site in result.rewritten)
    with pytest.raises(fxprune.FxpruneError, match=r"threshold is a scale of at least 0 and below 1; got 1\.5"):
        passes.RemoveChannels(threshold=1.5)
