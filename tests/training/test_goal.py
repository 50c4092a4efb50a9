"""What a run is asked for: what excludes what, and how records tell it."""

from __future__ import annotations

import pytest

from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneError
from fxprune.training.goal import Goal
from fxprune.training.recipe import shrink_of
from fxprune.training.settings import Settings


def test_further_targets_are_for_steering() -> None:
    with pytest.raises(
        FxpruneError, match="the activation memory: that is for layers that are steered to zero; leave"
    ):
        Goal(Targets(memory=0.5), strength=1.0)


def test_a_target_that_a_strength_would_ignore_is_refused() -> None:
    with pytest.raises(FxpruneError, match="50% of the MACs: that is for layers that are steered to zero"):
        shrink_of(Targets(macs=0.5), strength=1.0)


def test_a_target_of_macs_is_for_what_a_strength_leaves() -> None:
    assert Goal(Targets(macs=0.5), strength=1.0).shrink == 1.0
    assert Goal(Targets(macs=0.5)).shrink == Targets(macs=0.5)


def test_records_of_runs_have_the_names_of_the_shell() -> None:
    goal = Goal(Targets(params=0.3), layers="convs", keep=("stem",))
    none = dict.fromkeys(("target_macs", "target_memory", "target_ms", "target_latency"))
    shares = {**none, "target_params": 0.3}
    staying = {"keep": ["stem"], "only": [], "norms": "fold"}
    assert goal.options() == {**shares, "strength": None, "layers": "convs", **staying}


def test_without_training_all_may_go_unless_something_is_said() -> None:
    goal = Goal(Targets(macs=0.5))
    assert goal.without_training.sites == ("convs", "branches", "channels")
    assert goal.without_training.options() == Goal(Targets(macs=0.5), what="all").options() != goal.options()
    for said in (Goal(Targets(macs=0.5), layers="all"), Goal(Targets(macs=0.5), what="convs,branches")):
        assert said.without_training is said


def test_scales_shrink_over_a_share_of_the_steps() -> None:
    with pytest.raises(FxpruneError, match=r"shrink_share is of the steps, above 0 and at most 1; got 1\.5"):
        Settings(shrink_share=1.5)
