"""Plans: saved, read, edited, refused, and applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxprune
from fxprune import passes
from fxprune.choosing.planned_sites import PlannedSite
from fxprune.costs.macs import total_macs
from fxprune.errors import FxpruneTypeError, FxpruneValueError, LoadError
from fxprune.training.cifar_resnet import CifarResNet


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fxprune.trace(CifarResNet().eval(), torch.randn(2, 3, 32, 32))


@pytest.fixture(scope="module")
def plan(traced: fx.GraphModule) -> fxprune.PruningPlan:
    return fxprune.choose(traced, targets=fxprune.Targets(macs=0.5))


def edited(plan: fxprune.PruningPlan, file: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(plan.to_json())
    edit(content)
    file.write_text(json.dumps(content))
    return file


def test_what_is_saved_is_read(plan: fxprune.PruningPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert fxprune.PruningPlan.load(str(tmp_path / "plan.json")) == plan
    assert str(plan).endswith("layers, by l1, for at most 50% of the MACs")
    assert fxprune.PruningPlan.load(edited(fxprune.PruningPlan(), tmp_path / "none.json", str)).sites == ()


def test_a_site_and_a_layer_have_a_line_each(plan: fxprune.PruningPlan) -> None:
    lines = plan.to_json().splitlines()
    sites = [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith('    {"kind"')]
    assert [PlannedSite.read(one) for one in sites] == list(plan.sites)
    assert '    "layer1.0.conv1 Conv2d 16x16x3x3",' in lines
    less = replace(plan, sites=[replace(plan.sites[0], indices=plan.sites[0].indices[1:]), *plan.sites[1:]])
    assert sum(a != b for a, b in zip(lines, less.to_json().splitlines(), strict=True)) == 1


def test_it_does_what_the_pass_does(traced: fx.GraphModule, plan: fxprune.PruningPlan) -> None:
    result = plan.apply(traced)
    direct = passes.RemoveChannels(target_macs=0.5)(traced).graph_module
    assert total_macs(result.graph_module) == total_macs(direct) <= 0.5 * total_macs(traced)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(result.graph_module(x), direct(x))
    assert any(isinstance(one, nn.BatchNorm2d) for one in result.graph_module.modules())
    folded = plan.apply(traced, norms="fold").graph_module
    assert not any(isinstance(one, nn.BatchNorm2d) for one in folded.modules())


def test_an_edited_plan(traced: fx.GraphModule, plan: fxprune.PruningPlan, tmp_path: Path) -> None:
    def one_more(content: dict[str, Any]) -> None:
        site = content["sites"][0]
        site["indices"] = sorted({*range(site["width"] - 3)})

    def to_no_target(content: dict[str, Any]) -> None:
        content["targets"] = {"target_mac": 0.5}

    file = tmp_path / "plan.json"
    more = fxprune.PruningPlan.load(edited(plan, file, one_more))
    assert more.sites[0].path == "layer1.0.conv1"
    assert more.apply(traced).graph_module.get_submodule("layer1.0.conv1").out_channels == 3
    refused: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (
            lambda c: c["sites"][0]["indices"].append(16),
            r"index 16 of layer1.0.conv1 is out of range: it has 16",
        ),
        (lambda c: c.update(fxprune_plan=2), "plan of another format"),
        (lambda c: c.pop("fxprune_plan"), "is no plan: fxprune plan writes one"),
        (lambda c: c.update(site=[]), "has 'site', which no plan has; did you mean 'sites'"),
        (lambda c: c.update(sites={}), "sites is {}, and should be a list"),
        (lambda c: c.update(groups="all"), "takes 'within' or 'whole' for groups"),
        (lambda c: c["targets"].update(target_macs=50), r"macs of Targets is the share .* got 50"),
        (lambda c: c["targets"].update(target_macs="half"), "Targets takes a number or None for macs"),
        (to_no_target, "'target_mac' is no target; did you mean 'target_macs'"),
        (lambda c: c["fingerprint"].append(3), "for fingerprint, got"),
    ]
    for edit, message in refused:
        with pytest.raises(LoadError, match=message) as raised:
            fxprune.PruningPlan.load(edited(plan, file, edit))
        assert "\n" not in str(raised.value)


def test_what_is_no_file_of_a_plan(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"cannot read .*none.json: No such file"):
        fxprune.PruningPlan.load(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"fxprune_plan": 1,')
    with pytest.raises(LoadError, match=r"cut.json is no plan: Expecting"):
        fxprune.PruningPlan.load(tmp_path / "cut.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match=r"bytes.json is no plan"):
        fxprune.PruningPlan.load(tmp_path / "bytes.json")
    with pytest.raises(LoadError, match=r"cannot read"):
        fxprune.PruningPlan.load(tmp_path)
    with pytest.raises(LoadError, match=r"cannot write"):
        fxprune.PruningPlan().save(tmp_path / "no" / "plan.json")


def test_another_network_is_refused(plan: fxprune.PruningPlan) -> None:
    other = fxprune.trace(CifarResNet(depth=8).eval(), torch.randn(2, 3, 32, 32))
    message = (
        r"the plan is for another network: its layer 4 is layer1.1.conv1 Conv2d 16x16x3x3, and here it is layer2"
    )
    with pytest.raises(LoadError, match=message):
        plan.apply(other)


def test_a_width_that_the_layer_has_not(traced: fx.GraphModule, plan: fxprune.PruningPlan) -> None:
    wider = replace(plan, sites=[PlannedSite("channels", "conv1", 32, (31,))])
    with pytest.raises(LoadError, match=r"the plan says that conv1 has 32 channels; it has 16"):
        wider.apply(traced)
    absent = replace(plan, sites=[PlannedSite("channels", "conv11", 32, (31,))])
    with pytest.raises(FxpruneValueError, match=r"indices has 'conv11', .* did you mean 'conv1'"):
        absent.apply(traced)


def test_convs_and_branches_go_by_name(traced: fx.GraphModule, plan: fxprune.PruningPlan) -> None:
    branch = next(one.path for one in inspect_branches(traced) if one.path.startswith("layer3.2"))
    sites = [PlannedSite("conv", "layer1.0.conv1", 1, (0,)), PlannedSite("branch", branch, 1, (0,))]
    by_hand = fxprune.PruningPlan(sites, plan.fingerprint)
    assert str(by_hand) == "1 conv and 1 branch, by hand, for no target"
    result = by_hand.apply(traced)
    paths = {name for name, one in result.graph_module.named_modules() if isinstance(one, nn.Conv2d)}
    gone = {"layer1.0.conv1", "layer3.2.conv1", "layer3.2.conv2"}
    assert paths == {name for name, one in traced.named_modules() if isinstance(one, nn.Conv2d)} - gone
    assert not fxprune.gates_of(result.graph_module)
    both = replace(by_hand, sites=[*sites, PlannedSite("channels", "layer3.0.conv1", 64, (0, 1))])
    assert both.apply(traced).graph_module.get_submodule("layer3.0.conv1").out_channels == 62
    emptied = replace(by_hand, sites=[replace(one, indices=()) for one in sites])
    assert total_macs(emptied.apply(traced).graph_module) == total_macs(traced)
    absent = replace(by_hand, sites=[PlannedSite("conv", "layer2.0.conv1", 1, (0,))])
    with pytest.raises(FxpruneValueError, match=r"the conv layer2.0.conv1 of the plan is not there, or cannot go"):
        absent.apply(traced)


def inspect_branches(graph: fx.GraphModule) -> list[Any]:
    from fxprune.structures.branches import find_branches

    return [one for one in find_branches(graph) if one.eligible]


def test_of_another_kind() -> None:
    with pytest.raises(FxpruneTypeError, match=r"PruningPlan takes"):
        fxprune.PruningPlan(sites=[1])  # type: ignore[list-item]
