"""What goes of a network, as a plan."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import fx, nn

import fxprune
from fxprune.costs.activation_memory import activation_bytes
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, FxpruneValueError, FxpruneWarning, TargetError
from fxprune.training.cifar_resnet import CifarResNet


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(CifarResNet().eval(), torch.randn(2, 3, 32, 32))


def test_a_share_of_each_group(traced: fx.GraphModule) -> None:
    plan = fxprune.choose(traced, ratio=0.25, criterion="l2", multiple_of=4)
    assert {len(one.indices) / one.width for one in plan.sites} == {0.25}
    assert plan.criterion == "l2"
    assert all(len(one.scores) == len(one.indices) for one in plan.sites)
    assert plan.targets.is_empty


def test_what_the_user_should_know_is_warned_of(traced: fx.GraphModule) -> None:
    with pytest.warns(FxpruneWarning, match="channels were compared on the graph's 2 example inputs"):
        fxprune.choose(traced, ratio=0.25, criterion="apoz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = [(torch.randn(4, 3, 32, 32), torch.randint(10, (4,)))]
        assert fxprune.choose(traced, ratio=0.25, criterion="taylor", data=data).criterion == "taylor"


def test_where_nothing_has_to_go(traced: fx.GraphModule) -> None:
    with pytest.warns(FxpruneWarning, match="no channel has to go: all targets are met"):
        assert not fxprune.choose(traced, targets=fxprune.Targets(macs=1.0)).sites
    with pytest.warns(FxpruneWarning, match="nothing has to go"):
        assert not fxprune.choose(traced, "all", targets=fxprune.Targets(macs=1.0)).sites
    with pytest.warns(FxpruneWarning, match="ratio=0.001 is less than one channel of each group"):
        assert not fxprune.choose(traced, ratio=0.001).sites


def test_the_graph_stays(traced: fx.GraphModule) -> None:
    before = total_macs(traced), traced.code
    fxprune.choose(traced, "channels", fxprune.Targets(memory=0.8))
    assert (total_macs(traced), traced.code) == before


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("channels", {}, "choose takes targets, or a ratio of channels: how much is to go"),
        ("channel", {"ratio": 0.5}, "what names some of convs, branches, channels, or all; got 'channel'; did you"),
        ("channels", {"ratios": 0.5}, "choose has no option 'ratios'; did you mean 'ratio'"),
        ("channels", {"target_macs": 0.5}, "choose has no option 'target_macs'"),
        ("channels", {"ratio": 2.0}, "ratio is a share above 0 and below 1"),
        ("channels", {"ratio": 0.5, "keep": ["layr1"]}, "keep has 'layr1', which matches no module"),
        ("channels", {"ratio": 0.5, "criterion": "taylor"}, "criterion taylor needs labels"),
    ],
)
def test_bad_options(traced: fx.GraphModule, what: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneError, match=message):
        fxprune.choose(traced, what, **options)


def test_a_target_that_cannot_be_met(traced: fx.GraphModule) -> None:
    with pytest.raises(TargetError, match=r"target_macs=0.001 cannot be met: .* ask for at least"):
        fxprune.choose(traced, targets=fxprune.Targets(macs=0.001))


def left_of(traced: fx.GraphModule, plan: fxprune.PruningPlan) -> dict[str, float]:
    after = plan.apply(traced, norms="fold").graph_module
    before = fxprune.Pipeline(fxprune.AFTER_TRAINING, verify=False)(traced).graph_module
    peaks = [max(activation_bytes(one).values()) for one in (before, after)]
    macs, params = total_macs(after) / total_macs(traced), total_params(after) / total_params(before)
    return {"macs": macs, "params": params, "memory": peaks[1] / peaks[0]}


@pytest.mark.parametrize("targets", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.6, "params": 0.5}, {"memory": 0.7}])
@pytest.mark.parametrize("what", ["convs", "branches", "convs,branches", "branches,channels", "all"])
def test_any_mix_meets_targets(wide: fx.GraphModule, what: str, targets: dict[str, float]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*layers go as a whole", FxpruneWarning)
            plan = fxprune.choose(wide, what, fxprune.Targets(**targets))
    except TargetError as error:
        assert what in ("convs", "branches", "convs,branches")
        pytest.skip(str(error))
    found = left_of(wide, plan)
    assert all(found[name] <= share + 1e-3 for name, share in targets.items()), found
    if "channels" in what or what == "all":  # a branch may be the last, and is large
        assert any(found[name] > share - 0.1 for name, share in targets.items()), found
    kinds = {one.kind for one in plan.sites}
    allowed = {"convs": {"conv"}, "branches": {"branch"}, "convs,branches": {"conv", "branch"}}
    assert kinds <= allowed.get(what, {"branch", "channels"} if what != "all" else {"conv", "branch", "channels"})


@pytest.fixture(scope="module")
def wide() -> fx.GraphModule:
    """A network without the padded shortcuts that pin channels, with branches of very unlike size."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    with torch.no_grad():
        for path in ("layer1.1.conv1", "layer3.1.conv2", "layer2.1.conv1"):
            model.get_submodule(path).weight.mul_(1e-3)
    return fxprune.trace(model, torch.randn(2, 3, 64, 64), check=False)


def test_a_conv_and_the_channels_around_it_exclude_each_other(wide: fx.GraphModule) -> None:
    plan = fxprune.choose(wide, "convs,channels", fxprune.Targets(macs=0.5))
    convs, channels = plan.layers("conv"), plan.indices
    assert convs == ["layer3.1.conv2"]  # of the others their own channels go first
    assert channels
    assert not {"layer3.1.conv1", "layer3.0.conv2", "layer3.0.downsample.0", *convs} & channels.keys()


def test_what_lies_in_a_branch_that_goes_is_not_named(wide: fx.GraphModule) -> None:
    plan = fxprune.choose(wide, "branches,channels", fxprune.Targets(macs=0.35))
    blocks = [one.split(" ")[0] for one in plan.layers("branch")]
    assert blocks
    assert not [path for path in plan.indices for block in blocks if path.startswith(f"{block}.")]


def test_kept_layers_stay(wide: fx.GraphModule) -> None:
    plan = fxprune.choose(wide, "all", fxprune.Targets(macs=0.6), keep=["layer1", "layer2"])
    assert not [one for one in plan.sites if one.path.startswith(("layer1", "layer2"))]


def test_layers_take_no_ratio_and_say_what_cannot_be(wide: fx.GraphModule) -> None:
    with pytest.raises(FxpruneValueError, match="a ratio is of channels; give targets where convs may go"):
        fxprune.choose(wide, "all", ratio=0.5)
    with pytest.warns(FxpruneWarning, match=r"of the MACs are left where target_macs=0.95 .*: layers go as a whole"):
        fxprune.choose(wide, "branches", fxprune.Targets(macs=0.95))
    with pytest.raises(TargetError, match=r"without all .* convs and 5 branches that may go 0\.\d+ of the MACs"):
        fxprune.choose(wide, "convs,branches", fxprune.Targets(macs=0.01))
    with pytest.raises(FxpruneError, match="criterion taylor scores channels only"):
        fxprune.choose(wide, "all", fxprune.Targets(macs=0.5), criterion="taylor")


def test_channels_of_regions_are_named_by_their_paths() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

        def forward(self, x: Any) -> Any:
            while bool(x.abs().max() > 4):
                x = x / 2
            return self.net(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1), Looping())
    graph = fxprune.trace(model.eval(), torch.randn(2, 3, 8, 8))
    plan = fxprune.choose(graph, targets=fxprune.Targets(macs=0.5))
    assert plan.indices.keys() == {"0", "3.net.0"}
    assert total_macs(plan.apply(graph).graph_module) <= 0.5 * total_macs(graph)
