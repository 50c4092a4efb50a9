"""As many channels as targets ask for: never more is left, and what cannot be met says what can."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchvision
from channel_nets import NETS, conv
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.costs.activation_memory import activation_bytes
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneValueError, TargetError


@pytest.fixture(scope="module")
def resnet() -> fx.GraphModule:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    return fxprune.trace(model, torch.randn(2, 3, 64, 64), check=False)


def shares(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, float]:
    plain = [fxprune.Pipeline(fxprune.AFTER_TRAINING, verify=False)(one).graph_module for one in (before, after)]
    peaks = [max(activation_bytes(one).values()) for one in plain]
    return {
        "macs": total_macs(after) / total_macs(before),
        "params": total_params(after) / total_params(before),
        "memory": peaks[1] / peaks[0],
    }


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(
    "targets", [{"macs": 0.5}, {"params": 0.3}, {"memory": 0.6}, {"macs": 0.6, "params": 0.6, "memory": 0.9}]
)
def test_targets_are_met_and_little_more(resnet: fx.GraphModule, targets: dict[str, float], scope: Any) -> None:
    options = {f"target_{name}": share for name, share in targets.items()}
    cut = passes.RemoveChannels(**options, scope=scope)(resnet).graph_module  # type: ignore[arg-type]
    found = {name: share for name, share in shares(resnet, cut).items() if name in targets}
    assert all(found[name] <= targets[name] for name in targets), found
    assert any(found[name] > targets[name] - 0.04 for name in targets), found


def test_multiples_hold_where_a_target_is_met(resnet: fx.GraphModule) -> None:
    found = passes.RemoveChannels(target_macs=0.4, multiple_of=16, least=32, scope="global")(resnet)
    widths = {one.out_channels for one in found.graph_module.modules() if isinstance(one, nn.Conv2d)}
    assert all(one % 16 == 0 and one >= 32 for one in widths)
    assert 0.37 < shares(resnet, found.graph_module)["macs"] <= 0.4
    assert len(found.warnings) == 1
    coarse = passes.RemoveChannels(target_macs=0.4, multiple_of=16)(resnet)
    assert (
        "35.1% of the MACs are left where target_macs=0.4 was asked for: groups go in steps of multiple_of=16; "
        "scope=global overshoots less" in coarse.warnings
    )


def test_a_second_target_is_of_what_was_traced(resnet: fx.GraphModule) -> None:
    once = passes.RemoveChannels(target_macs=0.6)(resnet).graph_module
    assert not passes.RemoveChannels(target_macs=0.6)(once).modified
    twice = passes.RemoveChannels(target_macs=0.3)(once).graph_module
    assert 0.27 < shares(resnet, twice)["macs"] <= 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_macs": 0.0001},
            r"target_macs=0.0001 cannot be met: without all [\d,]+ channels that may go 0.00\d",
        ),
        ({"target_params": 0.2, "least": 0.9}, "target_params=0.2 cannot be met: .* ask for at least 0.8"),
        ({"target_memory": 0.01}, "target_memory=0.01 cannot be met: .* of the activation memory are left"),
        ({"target_macs": 0.5, "only": ["fc"]}, "target_macs=0.5 cannot be met: nothing may go: 1.000 of the MACs"),
    ],
)
def test_what_cannot_be_met_says_what_can(resnet: fx.GraphModule, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message) as raised:
        passes.RemoveChannels(**options)(resnet)
    assert "\n" not in str(raised.value)
    least = float(re.findall(r"at least ([\d.]+)", str(raised.value))[0])
    name = next(iter(options))
    if least < 1 and name != "target_memory":
        assert passes.RemoveChannels(**{**options, name: least})(resnet).modified


@pytest.mark.parametrize("name", NETS)
def test_half_of_the_macs_of_networks_of_every_structure(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    try:
        cut = passes.RemoveChannels(target_macs=0.7, scope="global")(traced).graph_module
    except TargetError as error:
        pytest.skip(str(error))
    assert total_macs(cut) <= 0.7 * total_macs(traced)


def test_channels_of_regions_are_ranked_with_the_others() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(conv(4, 32), nn.ReLU(), conv(32, 4))

        def forward(self, x: Any) -> Any:
            while bool(x.abs().max() > 4):
                x = x / 2
            return self.net(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.inner = conv(3, 32), conv(32, 4), Looping()

        def forward(self, x: Any) -> Any:
            return self.inner(self.second(self.first(x).relu()))

    torch.manual_seed(0)
    graph = fxprune.trace(Outer().eval(), torch.randn(2, 3, 8, 8))
    for options in ({"scope": "global"}, {"indices": {"inner.net.0": [0]}}):
        cut = passes.RemoveChannels(target_macs=0.5, **options)(graph)
        assert total_macs(cut.graph_module) <= 0.5 * total_macs(graph)
        places = {site.path: site.why for site in cut.rewritten}
        assert {"first", "inner.net.0"} <= places.keys()
    named = passes.RemoveChannels(indices={"inner.net.0": [0], "first": [1, 2]})(graph)
    assert {site.path for site in named.rewritten} == {"first", "second", "inner.net.0", "inner.net.2"}
    with pytest.raises(FxpruneValueError, match=r"did you mean 'inner\.net\.0'"):
        passes.RemoveChannels(indices={"inner.net.00": [0]})(graph)
