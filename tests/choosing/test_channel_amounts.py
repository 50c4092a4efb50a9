"""How many channels shall go: what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fxprune.choosing.channel_amounts import Amount
from fxprune.choosing.targets import Targets
from fxprune.errors import FxpruneValueError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio is a share above 0 and below 1 of each group's channels; got 1.0"),
        ({"ratio": {"layer1": 0.5, "layer2": 0.0}}, "ratio is a share .* got 0.0 at 'layer2'"),
        ({"ratio": float("nan")}, "ratio is a share"),
        ({"ratio": 0.5, "targets": Targets(macs=0.5)}, "ratio and targets exclude one another"),
        ({"multiple_of": 0}, "multiple_of is a number of channels from 1; got 0"),
        ({"least": 0}, "least is a number of channels from 1, or a share below 1 of each group; got 0"),
        ({"least": 2.5}, "least is a number"),
    ],
)
def test_what_makes_no_sense_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneValueError, match=message):
        Amount(**options)


def test_stages() -> None:
    assert Amount().is_empty
    assert Amount(ratio=0.5).stages == {"": 0.5}
    assert Amount(ratio={"layer1": 0.5}).stages == {"layer1": 0.5}
    assert not Amount(targets=Targets(memory=0.5)).is_empty
