"""What a plan says of one place: read, refused, and named so that each class is named once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from channel_nets import NETS

import fxprune
from fxprune.choosing.channel_choice import by_indices
from fxprune.choosing.planned_sites import PlannedSite, planned_channels, widths_of
from fxprune.errors import FxpruneValueError
from fxprune.structures.channels.groups import Channels

SITE = {"kind": "channels", "path": "conv1", "width": 8, "indices": [1, 7], "scores": [0.5, 2.0]}


def test_plain_data_and_back() -> None:
    site = PlannedSite.read(SITE)
    assert site == PlannedSite("channels", "conv1", 8, (1, 7), (0.5, 2.0))
    assert PlannedSite.read({**SITE, "scores": []}).indices == (1, 7)
    assert PlannedSite.read({key: value for key, value in SITE.items() if key != "scores"}).scores == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [1, 8]}, "index 8 of conv1 is out of range: it has 8 channels, 0 to 7"),
        ({"indices": [-1]}, "index -1 of conv1 is out of range"),
        ({"indices": [1.5]}, "index 1.5 of conv1 is no whole number"),
        ({"indices": [True]}, "index True of conv1 is no whole number"),
        ({"indices": "1"}, "indices of conv1 is '1', and should be a list"),
        ({"kind": "channel"}, "the kind of conv1 is 'channel', and none of conv, branch, channels; did you mean"),
        ({"kind": "branch", "width": 1}, "index 1 of conv1 is out of range: a branch goes as a whole, index 0"),
        ({"width": None}, "width of conv1 is None, and should be a whole number"),
        ({"scores": "many"}, "scores of conv1 is 'many', and should be a list"),
        ({"scores": [None]}, "score None of conv1 is no number"),
        ({"indexes": [1]}, "conv1 has 'indexes', .* did you mean 'indices'"),
    ],
)
def test_anything_else_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FxpruneValueError, match=message):
        PlannedSite.read({**SITE, **change})


def test_what_is_no_object_or_lacks_a_field() -> None:
    with pytest.raises(FxpruneValueError, match="a site is an object of kind, path, width and indices; got 3"):
        PlannedSite.read(3)
    with pytest.raises(FxpruneValueError, match="indices of conv1 is nothing, and should be a list"):
        PlannedSite.read({"kind": "channels", "path": "conv1", "width": 8})


@pytest.mark.parametrize("name", NETS)
def test_each_class_is_named_once(name: str) -> None:
    model, inputs = NETS[name]()
    traced = fxprune.trace(model.eval(), inputs)
    channels = Channels(traced)
    gone = {one for group in channels.groups for one in group.free[::2].tolist()}
    sites = planned_channels(channels, gone, np.full(len(channels.labels), 1 / 3), "part")
    indices = {one.path.removeprefix("part."): one.indices for one in sites}
    (found,) = by_indices([("", channels)], indices)
    assert set(found) == {one for one in gone if any(one in row for row in channels.outputs.values())}
    assert sum(map(len, indices.values())) == len(found)
    assert all(set(one.scores) == {0.3333} for one in sites)
    widths = dict(widths_of(traced))
    assert all(widths[path] == site.width for path, site in zip(indices, sites, strict=True))


def test_layers_that_go_name_none() -> None:
    model, inputs = NETS["Dense"]()
    channels = Channels(fxprune.trace(model.eval(), inputs))
    gone = {int(one[0]) for one in channels.outputs.values()}
    worth = np.zeros(len(channels.labels))
    paths = {one.path for one in planned_channels(channels, gone, worth)}
    assert {one.path for one in planned_channels(channels, gone, worth, without=["stem.0"])} == paths - {"stem.0"}
