"""The JSON form is read strictly, and never half."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from helpers import tiny

import fxprune
from fxprune import passes
from fxprune.errors import LoadError

DATA = fxprune.Pipeline([passes.FoldBatchNorm(), passes.InsertResConv()])(tiny()).diff.to_json()


def fused() -> dict[str, Any]:
    return next(change for change in DATA["changes"] if change["kind"] == "fused")


def test_the_form_is_the_documented_one() -> None:
    assert list(DATA) == ["format", "version", "matched_by", "before", "after", "changes"]
    assert (DATA["format"], DATA["version"], DATA["matched_by"]) == ("fxprune-diff", 1, "origin")
    assert list(DATA["before"]) == ["nodes", "macs", "params", "unknown"]
    assert list(fused()) == ["kind", "before", "after", "what", "why", "declined"]
    assert list(fused()["after"]) == [*("name", "op", "path", "inputs", "shape", "macs", "params", "scale", "detail")]
    declined = [reason for change in DATA["changes"] for reason in change["declined"]]
    assert declined
    assert all(list(reason) == ["pass", "rule", "step"] for reason in [*fused()["why"], *declined])
    again = json.loads(json.dumps(DATA))
    assert again == DATA  # nothing but JSON's own types


def test_fields_that_are_not_known_are_ignored() -> None:
    data = copy.deepcopy(DATA)
    data["later"] = data["changes"][0]["later"] = 1
    assert fxprune.GraphDiff.from_json(data) == fxprune.GraphDiff.from_json(DATA)


def test_files_that_do_not_tell_what_was_declined_and_what_is_unknown_are_read() -> None:
    data = copy.deepcopy(DATA)
    del data["before"]["unknown"], data["after"]["unknown"]
    for change in data["changes"]:
        del change["declined"]
    assert fxprune.GraphDiff.from_json(data).count("fused") == fxprune.GraphDiff.from_json(DATA).count("fused")


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(LoadError, match="version 2, this fxprune reads 1; update fxprune"):
        fxprune.GraphDiff.from_json({**DATA, "version": 2})


@pytest.mark.parametrize("data", [None, [], "diff", {}, {"format": "other", "version": 1}, {**DATA, "version": "1"}])
def test_what_is_no_diff(data: Any) -> None:
    with pytest.raises(LoadError, match=r"no diff of fxprune's|version 1, this"):
        fxprune.GraphDiff.from_json(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["matched_by"], "luck"),
        (["before"], None),
        (["before", "nodes"], "5"),
        (["changes"], {}),
        (["changes", 0], None),
        (["changes", 0, "kind"], "fused"),
        (["changes", 0, "kind"], "eaten"),
        (["changes", 0, "kind"], []),
        (["changes", 0, "after"], None),
        (["changes", 0, "what"], ["colour"]),
        (["changes", 0, "what"], None),
        (["changes", 0, "why"], [{"pass": "p", "rule": 1, "step": None}]),
        (["changes", 0, "after", "name"], 3),
        (["changes", 0, "after", "shape"], [1.5]),
        (["changes", 0, "after", "macs"], True),
        (["changes", 0, "after", "scale"], "1"),
        (["changes", 0, "after", "inputs"], "x"),
    ],
)
def test_damage_is_told(path: list[Any], value: Any) -> None:
    data = copy.deepcopy(DATA)
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(LoadError, match="the diff is damaged"):
        fxprune.GraphDiff.from_json(data)
    if isinstance(place, list):
        return
    del place[path[-1]]
    with pytest.raises(LoadError, match="the diff is damaged"):
        fxprune.GraphDiff.from_json(data)
