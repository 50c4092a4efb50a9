"""What a reader of a run's results is told beside the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from fxprune.run_results import notes_on


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"channels_removed": 3}, "layers and chunks of channels go as a whole"),
        ({}, "layers go as a whole"),
        ({"ucp": {}}, "one rule holds in all layers"),
        ({"settings": {"search": "cap"}}, "as many channels as held-out accuracy allows"),
    ],
)
def test_why_more_went_than_was_asked_for(report: dict[str, Any], told: str) -> None:
    settings = {"no_train": True, "target_macs": 0.5, **report.get("settings", {})}
    costs = {"macs_before": 100, "macs_after": 45}
    (note,) = notes_on({**report, **costs, "settings": settings})
    assert note.startswith("45.0% of the MACs are left where 50.0% were asked for: ")
    assert told in note
    assert notes_on({**report, **costs, "macs_after": 50, "settings": settings}) == []
