"""Targets, one value, and the keywords that said the same before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from helpers import TinyNet
from torch import fx, nn

import fxprune
from fxprune import Targets
from fxprune.pipelines.chains import insert_scales


def sparse_graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return insert_scales(fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8)), "all", verify=False).graph_module


@pytest.mark.parametrize("share", [50, 0, -1, float("nan")])
@pytest.mark.parametrize("name", ["macs", "params", "memory", "latency"])
def test_a_share_is_a_share(name: str, share: float) -> None:
    with pytest.raises(fxprune.FxpruneError, match=rf"^{name} of Targets is the share of .*, in \(0, 1\]; got"):
        Targets(**{name: share})


def test_a_share_is_a_number() -> None:
    with pytest.raises(fxprune.FxpruneError, match="Targets takes a number or None for memory, got str 'half'"):
        Targets(memory="half")  # type: ignore[arg-type]


def test_it_is_a_value() -> None:
    assert Targets(macs=0.5) == Targets(macs=0.5) != Targets(params=0.5)
    assert Targets().is_empty
    assert not Targets(memory=1.0).is_empty
    with pytest.raises(FrozenInstanceError):
        Targets().macs = 0.5  # type: ignore[misc]


def test_it_can_be_read() -> None:
    assert str(Targets()) == "no target"
    assert str(Targets(macs=0.5)) == "at most 50% of the MACs"
    assert str(Targets(macs=0.5, memory=0.125)) == "at most 50% of the MACs and 12.5% of the activation memory"
    assert str(Targets(milliseconds=4.0, macs=0.5)) == "at most 50% of the MACs and 4 ms"
    assert str(Targets(latency=0.5)) == "at most 50% of the time"


def test_records_of_runs_have_the_names_of_the_shell() -> None:
    none = {"target_macs": None, "target_memory": None, "target_ms": None, "target_latency": None}
    assert Targets(params=0.3).options() == {**none, "target_params": 0.3}
    timed = Targets(milliseconds=4.0, macs=0.5)
    assert timed.options()["target_ms"] == 4.0
    assert Targets.of_options(timed.options()) == timed
    assert Targets.of_options({"target_macs": 0.5}) == Targets(macs=0.5)  # an older record


@pytest.mark.parametrize("time", [0, -1.0, float("nan"), float("inf")])
def test_a_time_is_above_zero(time: float) -> None:
    with pytest.raises(fxprune.FxpruneError, match=r"^milliseconds of Targets is a time above 0; got"):
        Targets(milliseconds=time)


def test_a_time_is_asked_for_once() -> None:
    with pytest.raises(fxprune.FxpruneError, match="milliseconds and latency of Targets both say"):
        Targets(milliseconds=4.0, latency=0.5)
    assert Targets(latency=0.5).is_timed
    assert Targets(milliseconds=4.0).is_timed
    assert not Targets(macs=0.5).is_timed


def told(call: Callable[[], Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """Return what ``call`` returns, and the deprecations that it warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [one for one in found if issubclass(one.category, DeprecationWarning)]


@pytest.mark.parametrize(
    ("old", "new", "advice"),
    [
        (
            {"target_macs": 0.5, "meet_after": 4},
            Targets(macs=0.5),
            "targets=fxprune.Targets(macs=0.5)",
        ),
        ({"target_params": 0.6, "meet_after": 4}, Targets(params=0.6), "targets=fxprune.Targets(params=0.6)"),
        ({"target_memory": 0.7, "meet_after": 4}, Targets(memory=0.7), "targets=fxprune.Targets(memory=0.7)"),
        (
            {"targets": Targets(macs=0.5), "steps": 4},
            Targets(macs=0.5),
            "steps of SteeredL1 will go in fxprune 0.2: give meet_after=4",
        ),
        ({"target_macs": 0.5, "steps": 4}, Targets(macs=0.5), "targets=fxprune.Targets(macs=0.5), meet_after=4"),
    ],
)
def test_old_keywords_warn_once_and_do_the_same(old: dict[str, Any], new: Targets, advice: str) -> None:
    any_kind: Any = fxprune.SteeredL1
    shrink, found = told(lambda: any_kind(sparse_graph(), **old))
    assert len(found) == 1
    assert found[0].filename == __file__
    assert advice in str(found[0].message)
    expected = fxprune.SteeredL1(sparse_graph(), targets=new, meet_after=4)
    assert (shrink.targets, shrink.meet_after) == (new, 4)
    for _ in range(4):
        shrink.step(0.1)
        expected.step(0.1)
    assert shrink.state_dict() == expected.state_dict()


def fit(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(4, 3, 8, 8)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["target_macs", "target_params", "target_memory", "steps"])
def test_old_keywords_of_prune_warn_once_and_do_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, x = TinyNet(), torch.randn(4, 3, 8, 8)
    any_prune: Any = fxprune.prune
    new: dict[str, Any] = {"targets": Targets(macs=0.8), "meet_after": 3}
    old: dict[str, Any] = {"targets": Targets(macs=0.8), "steps": 3}
    if name != "steps":
        old = {name: 0.8, "meet_after": 3}
        new["targets"] = Targets(**{name.removeprefix("target_"): 0.8})
    before, found = told(lambda: any_prune(model, x, fit, **old))
    assert [one.filename for one in found] == [__file__]
    assert name in str(found[0].message)
    after, found = told(lambda: any_prune(model, x, fit, **new))
    assert found == []
    assert fxprune.verify(before.graph_module, after.graph_module, x, tolerance=0.0).equal


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"targets": Targets(macs=0.5), "target_params": 0.5, "meet_after": 4},
            "targets or the old target_params",
        ),
        (
            {"targets": Targets(macs=0.5), "target_macs": 0.5, "meet_after": 4},
            "targets or the old target_macs, not",
        ),
        ({"targets": Targets(macs=0.5), "meet_after": 4, "steps": 4}, "meet_after or the old steps, not both"),
    ],
)
def test_what_is_given_twice_is_refused(given: dict[str, Any], message: str) -> None:
    any_kind: Any = fxprune
    with pytest.raises(fxprune.FxpruneError, match=f"SteeredL1 takes {message}"):
        any_kind.SteeredL1(sparse_graph(), **given)
    with pytest.raises(fxprune.FxpruneError, match=f"prune takes {message}"):
        any_kind.prune(TinyNet(), torch.randn(4, 3, 8, 8), fit, **given)


def test_names_that_were_never_any_are_pythons_own_error() -> None:
    any_kind: Any = fxprune
    with pytest.raises(TypeError, match="target_flops"):
        any_kind.SteeredL1(sparse_graph(), target_flops=0.5, meet_after=4)
