"""How much each part of a network is missed, from end to end on small networks."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune.choosing.fingerprint import fingerprint
from fxprune.costs.macs import total_macs, total_params
from fxprune.errors import FxpruneError, FxpruneWarning
from fxprune.pruning.sensitivity.result import Sensitivity
from fxprune.pruning.sensitivity.study import Study
from fxprune.training.cifar_resnet import CifarResNet


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(CifarResNet(depth=8).eval(), torch.randn(2, 3, 12, 12))


@pytest.fixture(scope="module")
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(40, 3, 12, 12), torch.randint(10, (40,))) for _ in range(2)]


@pytest.fixture(scope="module")
def found(traced: fx.GraphModule, data: Any) -> Sensitivity:
    return fxprune.sensitivity(traced, data, targets=(0.5, 0.8, 0.001))


def test_every_kind_is_measured(found: Sensitivity, traced: fx.GraphModule) -> None:
    assert {one.kind for one in found.sites} == {"conv", "branch", "channels"}
    assert {one.goes / one.width for one in found.sites if one.kind == "channels"} == {0.25, 0.5, 0.75}
    assert all(0 < one.moved.missed <= 1 for one in found.sites)
    assert all(64 <= one.moved.images <= 80 for one in found.sites)
    assert found.whole.images == 80
    assert found.not_measured == ()
    ranked = [found.per_macs(one) for one in found.ranked]
    assert ranked == sorted(ranked)


def test_what_is_saved_is_what_the_cut_saves(found: Sensitivity, traced: fx.GraphModule) -> None:
    for one in found.sites[::5]:
        plan = fxprune.PruningPlan(one.planned, fingerprint(traced))
        cut = plan.apply(traced, verify=False).graph_module
        assert total_macs(traced) - total_macs(cut) == pytest.approx(one.macs, abs=2)
        assert total_params(traced) - total_params(cut) == pytest.approx(one.params, abs=2)


def test_the_curve_is_checked_by_cutting(found: Sensitivity, traced: fx.GraphModule, data: Any) -> None:
    assert [one.target for one in found.curve] == [0.8, 0.5, 0.001]
    for one in found.curve[:2]:
        assert one.plan is not None
        assert one.measured is not None
        cut = one.plan.apply(traced).graph_module
        assert total_macs(cut) / total_macs(traced) == pytest.approx(one.macs_left)
        assert one.macs_left is not None
        assert one.macs_left <= one.target
        inputs = torch.cat([x for x, _ in data])
        with torch.no_grad():
            gap = (traced(inputs).softmax(1) - cut(inputs).softmax(1)).abs().sum(1).mean() / 2
        assert one.measured.missed == pytest.approx(float(gap), rel=1e-3)
        assert one.measured.images == 80
    assert found.curve[2].plan is None
    assert "target_macs=0.001 cannot be met" in found.curve[2].why
    assert "ask for at least" in found.curve[2].why


def test_it_is_told(found: Sensitivity) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(told["sites"]) == len(found.sites)
    assert told["sites"][0]["missed"] == found.ranked[0].moved.missed
    text = str(found)
    assert "layer1.0 [conv1 ... bn2]" in text
    assert "0% of the MACs: target_macs=0.001 cannot be met" in text
    assert "of which the network has" in text


def test_the_network_stays(traced: fx.GraphModule, data: Any) -> None:
    before, code = {name: value.clone() for name, value in traced.state_dict().items()}, traced.code
    fxprune.sensitivity(traced, data, "convs", targets=(0.7,), labels=False)
    assert traced.code == code
    assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())


def test_labels_can_be_left_aside(traced: fx.GraphModule, data: Any) -> None:
    found = fxprune.sensitivity(traced, data, ["branches"], targets=(), labels=False)
    assert {one.moved.top1 for one in found.sites} == {None}
    assert "top-1" not in str(found)
    assert found.whole.top1 is None


def test_what_the_user_keeps_is_not_measured(traced: fx.GraphModule, data: Any) -> None:
    found = fxprune.sensitivity(traced, data, keep=["layer3", "conv1"], targets=(0.7,), shares=(0.5,))
    assert {one.path for one in found.sites if one.kind == "channels"} == {"layer1.0.conv1", "layer2.0.conv1"}
    (point,) = found.curve
    assert point.plan is not None
    assert not [one for one in point.plan.sites if one.path.startswith(("layer3", "conv1"))]


def test_it_says_what_it_takes_and_what_is_left(
    traced: fx.GraphModule, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(traced, data, "channels", shares=(0.5,), targets=())
    assert "4 removals on at most 80 samples: at most" in study.takes
    assert "MB beside the samples" in study.takes
    with caplog.at_level(logging.INFO, logger="fxprune"):
        study.measure()
    assert caplog.messages[0] == study.takes
    assert "removal 4 of 4 on samples 1 to 64 of 80, at most" in "\n".join(caplog.messages)


class Dict(nn.Module):
    """What returns no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.one(x))
        return {"features": y.sum(1), "more": self.two(y).mean((1, 2, 3))}


def test_outputs_that_are_no_logits() -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(Dict().eval(), torch.randn(2, 3, 8, 8))
    images = [(torch.randn(40, 3, 8, 8), torch.zeros(40, dtype=torch.long)) for _ in range(2)]
    found = fxprune.sensitivity(graph, images, targets=(0.8,), shares=(0.5,))
    assert not found.whole.is_logits
    assert all(one.moved.agreement is None and one.moved.top1 is None for one in found.sites)
    assert all(one.moved.missed > 0 for one in found.sites)
    assert "outputs are not one tensor of logits" in str(found)
    json.dumps(found.to_json(), allow_nan=False)
    with pytest.raises(FxpruneError, match="labels are asked for, and the outputs are not one tensor of logits"):
        fxprune.sensitivity(graph, images, labels=True)


def test_few_samples_are_warned_of(traced: fx.GraphModule) -> None:
    with pytest.warns(FxpruneWarning, match="2 samples are few, 64 the least to trust: the graph's 2 example inputs"):
        found = fxprune.sensitivity(traced, None, "branches", targets=())
    assert found.sites[0].moved.images == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fxprune.sensitivity(traced, [torch.randn(64, 3, 12, 12)], "branches", targets=())


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (torch.randn(64, 3, 12, 12), {"labels": True}, "labels are asked for, and data has none"),
        (torch.randn(64, 4, 12, 12), {}, "the network does not take inputs of shape 64x4x12x12: .*--image-size sets"),
        (torch.full((64, 3, 12, 12), torch.nan), {}, "not finite: the inputs hold NaN; no removal can be measured"),
        (
            (torch.randn(64, 3, 12, 12), torch.full((64,), 10)),
            {},
            "data has label 10, and the network has 10 outputs",
        ),
        (
            (torch.randn(64, 3, 12, 12), torch.rand(64)),
            {},
            "labels are whole numbers, one a sample; got torch.float32",
        ),
        (torch.randn(64, 3, 12, 12), {"share": 0.5}, "sensitivity has no option 'share'; did you mean 'shares'"),
        (torch.randn(64, 3, 12, 12), {"shares": (1.0,)}, "shares of sensitivity are above 0 and below 1; got 1"),
        (torch.randn(64, 3, 12, 12), {"images": 0}, "images of sensitivity is a number from 1; got 0"),
        (torch.randn(64, 3, 12, 12), {"criterion": "l3"}, "unknown criterion 'l3'; did you mean"),
        (torch.randn(64, 3, 12, 12), {"keep": ["layr"]}, "keep has 'layr', which matches no module"),
    ],
)
def test_bad_input(traced: fx.GraphModule, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneError, match=message) as caught:
        fxprune.sensitivity(traced, [given], **options)
    assert "\n" not in str(caught.value)


def test_no_samples(traced: fx.GraphModule) -> None:
    with pytest.raises(FxpruneError, match="there are no samples to measure on: give data="):
        fxprune.sensitivity(traced, [])


def test_a_network_in_train_mode_is_refused(traced: fx.GraphModule, data: Any) -> None:
    traced.train()
    try:
        with pytest.raises(FxpruneError, match=r"in eval mode; call .eval\(\) on the network first"):
            fxprune.sensitivity(traced, data)
    finally:
        traced.eval()


def test_the_layer_that_is_first_to_compute_nan_is_named() -> None:
    model = CifarResNet(depth=8).eval()
    graph = fxprune.trace(model, torch.randn(2, 3, 12, 12))
    with torch.no_grad():
        graph.get_submodule("layer2.0.conv1").weight[0, 0, 0, 0] = torch.nan  # type: ignore[operator]
    with pytest.raises(FxpruneError, match=r"layer2_0_conv1 \(layer2.0.conv1\) is the first to compute NaN"):
        fxprune.sensitivity(graph, [torch.randn(64, 3, 12, 12)])


def test_nothing_that_may_go() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.randn(2, 4))
    with pytest.raises(
        FxpruneError, match="the model has no convs or branches that may go; fxprune inspect tells why"
    ):
        fxprune.sensitivity(graph, [torch.randn(64, 4)], "convs,branches")


class Looping(nn.Module):
    """What opens by its values: opaque, with a region inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> Any:
        while bool(x.abs().max() > 4):
            x = x / 2
        return self.net(x)


def test_what_is_inside_an_opaque_module_is_told_as_not_measured() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1), Looping(), nn.Flatten(), nn.Linear(256, 5)
    graph = fxprune.trace(nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8))
    found = fxprune.sensitivity(graph, [torch.randn(64, 3, 8, 8)], "channels", shares=(0.5,), targets=(0.8, 0.4))
    assert [one.path for one in found.sites] == ["0"]
    assert [(one.kind, one.path) for one in found.not_measured] == [("channels", "3.net.0")]
    assert "is opaque and runs as a whole" in str(found)
    assert [set(one.plan.indices) for one in found.curve if one.plan is not None] == [{"0"}]
    assert "cannot be met" in found.curve[1].why


class Viewing(nn.Module):
    """What takes no images that are laid out channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.conv(x)).view(x.size(0), -1))


def test_a_network_that_views_its_activations_is_measured() -> None:
    torch.manual_seed(0)
    graph = fxprune.trace(Viewing().eval(), torch.randn(2, 3, 8, 8))
    found = fxprune.sensitivity(graph, [torch.randn(64, 3, 8, 8)], "channels", targets=())
    assert [one.goes for one in found.sites] == [2, 4, 6]
