import logging

import pytest

from fxprune.ir.time_left import Progress


def test_it_tells_how_far_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress(logging.getLogger("fxprune.test"), 4)
    for done in (0, 2):
        progress.tell(done, "fitting")
    first, second = caplog.records
    assert first.getMessage() == "fitting, 1 of 4"
    assert second.getMessage().startswith("fitting, 3 of 4, about 0 s left")
    assert [one.share for one in caplog.records] == [0, 0.5]  # type: ignore[attr-defined]
