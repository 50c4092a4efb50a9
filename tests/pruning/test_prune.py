"""All of it in one call, with a user's own training function of either kind."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from helpers import TinyNet, targets
from torch import nn

import fxprune
from fxprune.costs.macs import total_macs
from fxprune.errors import LoadError, TargetError
from fxprune.gates.branch_scale import BranchScale
from fxprune.pipelines.chains import insert_scales
from fxprune.structures.gated_layers import layers as layers_of


def loop(model: nn.Module, after_step: object = None, steps: int = 6) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).softmax(1)[:, 0].mean().backward()
        optimizer.step()
        if isinstance(after_step, fxprune.ProximalL1):
            after_step.step(0.05)


def test_a_plain_training_function_needs_no_change() -> None:
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    result = fxprune.prune(model, x, loop, targets=fxprune.Targets(macs=0.5), meet_after=4)
    before = total_macs(fxprune.trace(model, x))
    assert total_macs(result.graph_module) <= 0.5 * before
    assert not result.warnings
    assert not {"ResConv", "BatchNorm2d"} & set(targets(result.graph_module))
    assert not result.graph_module.training


def test_a_training_function_may_step_by_itself_for_now() -> None:
    def fit(model: nn.Module, shrink: fxprune.ProximalL1) -> None:
        loop(model, shrink)

    with pytest.warns(DeprecationWarning, match=r"give fit\(sparse\), whose layers shrink after each") as told:
        result = fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit, strength=100.0)
    assert [warning.filename for warning in told] == [__file__]
    assert len(result.steps[0].result.rewritten) == 2  # both branches, with the convs in them


def test_shrink_is_given_by_its_name() -> None:
    found: list[tuple[Any, ...]] = []

    def with_default(model: nn.Module, epochs: int = 6, shrink: Any = None) -> None:
        found.append((epochs, type(shrink)))
        loop(model, shrink, steps=epochs)

    def keyword_only(model: nn.Module, *, shrink: Any) -> None:
        found.append((6, type(shrink)))
        loop(model, shrink)

    for fit in (with_default, keyword_only):
        with pytest.deprecated_call():
            fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit, strength=1.0)
    assert found == [(6, fxprune.ProximalL1)] * 2


def test_an_optimizer_may_leave_frozen_parameters_out() -> None:
    def fit(model: nn.Module) -> None:  # steering freezes the scales
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizers = [torch.optim.SGD(part, lr=0.05) for part in (trained[:4], trained[4:])]
        for _ in range(6):
            model(torch.randn(4, 3, 8, 8)).softmax(1)[:, 0].mean().backward()
            for optimizer in optimizers:
                optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fxprune.prune(
            TinyNet(), torch.randn(4, 3, 8, 8), fit, targets=fxprune.Targets(params=0.8), meet_after=6
        )
    assert any(step.result.rewritten for step in result.steps)
    with pytest.warns(fxprune.FxpruneWarning, match="fit took 6 steps of the 7"):  # of two optimizers, not 12
        fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit, targets=fxprune.Targets(params=0.8), meet_after=7)


def test_a_training_function_may_set_the_scales_itself() -> None:
    def fit(model: nn.Module) -> None:
        model.get_submodule("block1.conv1").assign(scale=0.0, shortcut=1.0)  # type: ignore[operator]

    result = fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit)
    assert [site.path for site in result.steps[0].result.rewritten] == ["block1.conv1"]


def test_optimizers_of_other_models_do_not_shrink() -> None:
    other = nn.Linear(2, 2)

    def fit(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        other(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    with pytest.raises(fxprune.FxpruneError, match="fit took no step"):
        fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit)


def test_impossible_requests_are_refused_before_training() -> None:
    def never(model: nn.Module) -> None:
        raise AssertionError("trained")

    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(TargetError, match="cannot be met"):
        fxprune.prune(TinyNet(), x, never, targets=fxprune.Targets(macs=0.001))
    with pytest.raises(fxprune.FxpruneError, match="no removable conv"):
        fxprune.prune(nn.Sequential(nn.Conv2d(3, 4, 3)), x, never)
    with pytest.raises(fxprune.FxpruneError, match="meet_after is for targets: give"):
        fxprune.prune(TinyNet(), x, never, meet_after=3)
    with pytest.raises(fxprune.FxpruneError, match="strength is of an L1 that is not steered"):
        fxprune.prune(TinyNet(), x, never, targets=fxprune.Targets(macs=0.5), meet_after=3, strength=1e-3)
    with pytest.raises(
        fxprune.FxpruneError, match="50% of the activation memory: that is for layers that are steered"
    ):
        fxprune.prune(TinyNet(), x, never, targets=fxprune.Targets(macs=0.5, memory=0.5))


def test_weights_that_training_made_nan_are_refused() -> None:
    def fit(model: nn.Module) -> None:
        loop(model, steps=1)
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    with pytest.raises(fxprune.FxpruneError, match="NaN or Inf"):
        fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit)


def test_a_model_without_removable_layers_lists_why() -> None:
    def insert(model: nn.Module, x: torch.Tensor, layers: Any = "all") -> None:
        insert_scales(fxprune.trace(model, x), layers)

    x = torch.randn(2, 4, 9, 9)
    with pytest.raises(fxprune.FxpruneError, match=r"no removable conv or .*: 0: it changes .* 1: it changes"):
        insert(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)), x)
    with pytest.raises(fxprune.FxpruneError, match="no convs at all"):
        insert(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4), "convs")
    with pytest.raises(fxprune.FxpruneError, match=r"no removable residual branch: no two activations are added"):
        insert(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)), x, "branches")
    with pytest.raises(fxprune.FxpruneError, match=r"insert_scales takes 'all' or .* for layers, got str 'some'"):
        insert(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4), "some")


@pytest.mark.parametrize(
    ("layers", "kinds"), [("convs", {"conv"}), ("branches", {"branch"}), ("all", {"conv", "branch"})]
)
def test_single_convs_or_whole_branches(layers: Any, kinds: set[str]) -> None:
    def fit(model: nn.Module) -> None:
        found = layers_of(model)  # type: ignore[arg-type]
        assert {"branch" if isinstance(layer.module, BranchScale) else "conv" for layer in found} == kinds
        for layer in found:
            layer.module.close()

    result = fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit, surgery=fxprune.Surgery(layers))
    assert targets(result.graph_module).count("Conv2d") == 1


@pytest.mark.parametrize(("steps", "is_met"), [(4, True), (400, False)])
def test_further_targets_that_are_missed_are_told(steps: int, is_met: bool) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fxprune.prune(TinyNet(), torch.randn(4, 3, 8, 8), loop, targets=fxprune.Targets(params=0.8), meet_after=steps)
    told = any("(at most 80% of the parameters): fit took 6 steps of the 400" in str(one.message) for one in found)
    assert told is not is_met


def test_norms_can_be_kept() -> None:
    model, surgery = TinyNet(), fxprune.Surgery(norms="keep")
    result = fxprune.prune(
        model, torch.randn(4, 3, 8, 8), loop, targets=fxprune.Targets(macs=0.5), meet_after=4, surgery=surgery
    )
    left = targets(result.graph_module)
    assert left.count("BatchNorm2d") == left.count("Conv2d")
    assert "ResConv" not in left


def a_plan(model: nn.Module, x: torch.Tensor, what: Any) -> fxprune.PruningPlan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxprune.FxpruneWarning)  # layers go as a whole
        return fxprune.choose(fxprune.trace(model, x), what, fxprune.Targets(macs=0.6))


@pytest.mark.parametrize("what", ["convs", "branches", "channels"])
@pytest.mark.parametrize("meet_after", [None, 4])
def test_a_plan_goes_by_zeros_or_at_once(what: str, meet_after: int | None) -> None:
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    plan = a_plan(model, x, what)
    result = fxprune.prune(model, x, loop, plan=plan, meet_after=meet_after)
    wanted = plan.apply(fxprune.trace(model, x), norms="fold").graph_module
    assert total_macs(result.graph_module) == total_macs(wanted)
    assert not result.graph_module.training
    assert "BatchNorm2d" not in targets(result.graph_module)
    assert result.max_relative is not None
    assert total_macs(result.steps[0].before) >= total_macs(fxprune.trace(model, x))


def test_a_plan_is_refused_beside_what_else_says_what_goes() -> None:
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    plan = a_plan(model, x, "channels")
    for given, names in (
        ({"targets": fxprune.Targets(macs=0.5), "strength": 1e-3}, "targets and strength"),
        ({"surgery": fxprune.Surgery(what="convs")}, "what"),
        ({"surgery": fxprune.Surgery(keep=["stem"], threshold=0.1), "meet_after": 3}, "keep and threshold"),
    ):
        with pytest.raises(fxprune.FxpruneError, match=f"a plan says what goes: leave {names} out"):
            fxprune.prune(model, x, loop, plan=plan, **given)
    for meet_after in (None, 3):
        with pytest.raises(LoadError, match="plan is for another network"):
            fxprune.prune(nn.Conv2d(3, 3, 1), x, loop, plan=plan, meet_after=meet_after)
        with pytest.raises(fxprune.FxpruneError, match="fit took no step"):
            fxprune.prune(model, x, lambda graph: None, plan=plan, meet_after=meet_after)


def test_a_plan_that_is_not_closed_in_time_is_told() -> None:
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    with pytest.warns(fxprune.FxpruneWarning, match="not all of the plan is closed: fit took 6 steps of the 20"):
        fxprune.prune(model, x, loop, plan=a_plan(model, x, "channels"), meet_after=20)
