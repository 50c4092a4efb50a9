"""Graphs that share no origins are matched by what they look like, and the diff says that this is a guess."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import torch
from helpers import Block, assert_accounts, randomize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import RandomNet
from torch import fx, nn

import fxprune


def net(*names: str) -> fx.GraphModule:
    torch.manual_seed(0)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(3, 4, 3, padding=1))
    parts |= {name: Block(4) for name in names}
    return fxprune.trace(
        nn.Sequential(
            parts,
        ).eval(),
        torch.randn(1, 3, 8, 8),
    )


def guessed(before: fx.GraphModule, after: fx.GraphModule) -> fxprune.GraphDiff:
    found = fxprune.diff(before, after)
    assert found.matched_by == "guess"
    assert "a guess" in str(found)
    assert_accounts(before, after, found)
    return found


def kinds(found: fxprune.GraphDiff) -> list[str]:
    return [change.kind for change in found.changes]


def test_a_block_more_is_all_that_was_added() -> None:
    found = guessed(net("a", "b"), net("a", "new", "b"))
    added = [change.main.path for change in found.changes if change.kind == "added"]
    assert len(added) == 7  # conv, norm, relu, conv, norm, sum, relu
    assert all(path.startswith("new") for path in added)
    assert found.count("removed") == 0


def test_other_module_paths_are_recognised_by_the_neighbourhood() -> None:
    found = guessed(net("a", "b"), net("first", "second"))
    assert {"added", "removed"}.isdisjoint(kinds(found))
    assert not found.differs  # the same weights, in the same order
    assert "have another module path" in str(found)


def test_renamed_and_grown() -> None:
    found = guessed(net("a", "b"), net("first", "second", "third"))
    assert found.count("removed") == 0
    assert found.count("added") == 7


def test_networks_that_have_nothing_in_common() -> None:
    torch.manual_seed(0)
    other = fxprune.trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(2, 4))
    found = guessed(net("a"), other)
    assert [change.op for change in found.changes if len(change.before) == 1 and change.after] == [
        "placeholder",
        "output",
    ]
    assert next(change for change in found.changes if change.op == "placeholder").what == ("shape",)


def test_a_read_shared_by_many_is_no_trouble() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return sum(torch.relu(x) for _ in range(50))

    before = fxprune.trace(Wide(), torch.randn(1, 2))
    after = fxprune.trace(nn.Sequential(Wide(), nn.Tanh()), torch.randn(1, 2))
    assert guessed(before, after).count("added") == 1


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_any_two_networks_are_accounted_for(first: int, second: int) -> None:
    graphs = []
    for seed in (first, second):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
            warnings.filterwarnings("ignore", ".* is opaque and hides")
            try:
                graphs.append(
                    fxprune.trace(randomize(RandomNet(seed)), tuple(torch.randn(2, 2, 4, 7, 7).double().unbind()))
                )
            except fxprune.FxpruneError:
                return  # a write that cannot be made functional
    before, after = graphs
    assert_accounts(before, after, fxprune.diff(before, after))
