"""Criteria and searches by name, and those of other packages."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from helpers import TinyNet

import fxprune
from fxprune.choosing.criteria.half_gate import HalfGate
from fxprune.choosing.named import known_criteria, known_searches
from fxprune.choosing.search.lazy_greedy import LazyGreedy
from fxprune.errors import FxpruneWarning
from fxprune.pipelines.chains import insert_scales


class First(LazyGreedy):
    """The first that may go, unmeasured."""

    name = "first"

    def next_layer(
        self, weights: Any, known: Any, missed: Any, may_go: Callable[[str], bool], comparing: Any
    ) -> str | None:
        return next(filter(may_go, weights), None)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let another package have a search, and a criterion that cannot be loaded."""
    package = types.ModuleType("another_package")
    package.First = First  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another_package", package)
    points = {
        "fxprune.searches": [EntryPoint("first", "another_package:First", "fxprune.searches")],
        "fxprune.criteria": [EntryPoint("taylor", "another_package:Taylor", "fxprune.criteria")],
    }
    monkeypatch.setattr("fxprune.joined.entry_points", lambda group: points.get(group, []))
    known_criteria.cache_clear()
    known_searches.cache_clear()
    yield
    known_criteria.cache_clear()
    known_searches.cache_clear()


def shrinking(**chosen: Any) -> fxprune.SteeredL1:
    graph = insert_scales(fxprune.trace(TinyNet(), torch.randn(4, 3, 8, 8)), "convs", verify=False).graph_module
    return fxprune.SteeredL1(graph, targets=fxprune.Targets(macs=0.9), meet_after=2, plan=fxprune.Plan(**chosen))


def test_ours_are_known_and_are_the_defaults() -> None:
    assert known_criteria()["half-gate"] is HalfGate
    assert known_searches()["lazy-greedy"] is LazyGreedy
    shrink = shrinking()
    assert isinstance(shrink.criterion, HalfGate)
    assert isinstance(shrink.search, LazyGreedy)


def test_those_of_other_packages_join(installed: None) -> None:
    with pytest.warns(FxpruneWarning, match="criterion taylor cannot be loaded: "):
        shrink = shrinking(search="first")
    shrink.step()
    assert shrink.order == [next(iter(shrink.layers))]
    assert isinstance(shrinking(search=First()).search, First)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(fxprune.FxpruneError, match="unknown criterion 'half-gates'; did you mean 'half-gate'"):
        shrinking(criterion="half-gates")
    with pytest.raises(fxprune.FxpruneError, match="unknown search 'genetic'; known: lazy-greedy"):
        shrinking(search="genetic")
