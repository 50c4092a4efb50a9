"""What a target in time asks for, and what is said where it cannot be had."""

from __future__ import annotations

import pytest
from fake_latency import FakeTable

from fxprune import Targets
from fxprune.choosing.time_asked import milliseconds_asked, require_latency, require_milliseconds
from fxprune.errors import FxpruneError, TargetError


def test_a_share_is_of_the_whole() -> None:
    assert milliseconds_asked(Targets(milliseconds=4.0), 10.0) == 4.0
    assert milliseconds_asked(Targets(latency=0.3), 10.0) == 3.0


def test_who_asks_for_a_time_gives_a_model() -> None:
    require_latency(Targets(macs=0.5), None, "choose")
    require_latency(Targets(latency=0.5), FakeTable(), "choose")
    with pytest.raises(FxpruneError, match=r"^choose needs a model of times for .* time: give latency="):
        require_latency(Targets(latency=0.5), None, "choose")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (Targets(milliseconds=4.0), r"target_ms=4 cannot be met: .* takes 4\.567 ms, .* at least 4\.57 ms$"),
        (Targets(latency=0.4), r"target_latency=0\.4 cannot be met: .* 4\.567 ms, .* at least 0\.457$"),
    ],
)
def test_what_cannot_be_had_says_what_can(targets: Targets, message: str) -> None:
    limit = milliseconds_asked(targets, 10.0)
    require_milliseconds(targets, limit, limit, "all that can go")
    with pytest.raises(TargetError, match=message):
        require_milliseconds(targets, limit, 4.567, "all that can go")
