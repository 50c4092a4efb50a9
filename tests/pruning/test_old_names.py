"""Keywords that went together in one value: the old ones warn once a call, and do the same, until 0.2."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TinyNet
from torch import fx, nn

import fxprune
from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.pipelines.chains import insert_scales

any_kind: Any = fxprune


def told(call: Callable[[], Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """Return what ``call`` returns, and the deprecations that it warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [one for one in found if issubclass(one.category, DeprecationWarning)]


def sparse_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return insert_scales(fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8)), verify=False).graph_module


def fit(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(4, 3, 8, 8)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("old", "advice"),
    [
        ({"criterion": "half-gate", "window": 3.0}, "plan=fxprune.Plan(window=3.0)"),
        ({"search": "lazy-greedy", "window": 1}, "plan=fxprune.Plan(window=1)"),
        ({"criterion": HalfGate()}, "plan=fxprune.Plan(criterion=...)"),
    ],
)
def test_how_layers_are_chosen(old: dict[str, Any], advice: str) -> None:
    targets = fxprune.Targets(macs=0.5)
    shrink, found = told(lambda: any_kind.SteeredL1(sparse_graph(), targets=targets, meet_after=8, **old))
    assert [one.filename for one in found] == [__file__]
    assert str(found[0].message) == f"{', '.join(old)} of SteeredL1 will go in fxprune 0.2: give {advice}"
    plan = fxprune.Plan(**old)
    same, found = told(lambda: fxprune.SteeredL1(sparse_graph(), targets=targets, meet_after=8, plan=plan))
    assert found == []
    for _ in range(4):
        shrink.step()
        same.step()
    assert shrink.state_dict() == same.state_dict()


def test_the_window_is_how_long_a_layer_closes() -> None:
    gates = []
    for window in (1.0, 3.0):
        shrink = fxprune.SteeredL1(
            sparse_graph(), targets=fxprune.Targets(macs=0.5), meet_after=8, plan=fxprune.Plan(window=window)
        )
        shrink.step()
        gates.append(float(shrink.layers[shrink.order[0]].gate.detach()))
    assert gates[0] < gates[1] < 1


@pytest.mark.parametrize(
    ("old", "advice"),
    [
        ({"layers": "convs", "verify": False}, "surgery=fxprune.Surgery(layers='convs', verify=False)"),
        ({"keep": ["block1"], "threshold": 0.5}, "surgery=fxprune.Surgery(keep=..., threshold=0.5)"),
        ({"only": ["block2"]}, "surgery=fxprune.Surgery(only=...)"),
    ],
)
def test_what_is_done_around_training(old: dict[str, Any], advice: str) -> None:
    torch.manual_seed(0)
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    before, found = told(lambda: any_kind.prune(model, x, fit, strength=30.0, **old))
    assert [one.filename for one in found] == [__file__]
    assert str(found[0].message) == f"{', '.join(old)} of prune will go in fxprune 0.2: give {advice}"
    after, found = told(lambda: fxprune.prune(model, x, fit, strength=30.0, surgery=fxprune.Surgery(**old)))
    assert found == []
    assert fxprune.verify(before.graph_module, after.graph_module, x, tolerance=0.0).equal
    assert str(before.steps[0].result.rewritten) == str(after.steps[0].result.rewritten)


def test_a_value_and_its_old_parts_are_refused() -> None:
    given = {"targets": fxprune.Targets(macs=0.5), "meet_after": 4}
    with pytest.raises(fxprune.FxpruneError, match="SteeredL1 takes plan or the old search, not both"):
        any_kind.SteeredL1(sparse_graph(), **given, plan=fxprune.Plan(), search="lazy-greedy")
    with pytest.raises(fxprune.FxpruneError, match="prune takes surgery or the old keep, only, not both"):
        any_kind.prune(TinyNet(), torch.ones(4, 3, 8, 8), fit, surgery=fxprune.Surgery(), keep=[], only=[])


def test_those_of_several_values_are_told_together() -> None:
    call = lambda: any_kind.SteeredL1(sparse_graph(), target_macs=0.5, steps=4, window=2.0)  # noqa: E731
    shrink, found = told(call)
    advice = "targets=fxprune.Targets(macs=0.5), meet_after=4, plan=fxprune.Plan(window=2.0)"
    assert [str(one.message).partition(": give ")[2] for one in found] == [advice]
    assert (shrink.targets, shrink.meet_after, shrink.plan) == (
        fxprune.Targets(macs=0.5),
        4,
        fxprune.Plan(window=2.0),
    )
