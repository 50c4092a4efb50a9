"""The unified text: hunks by module, unchanged runs folded, totals; the statistics and the story of a layer."""

from __future__ import annotations

import re

import pytest
from helpers import tiny, with_scales
from hostile_names import HOSTILE, hostile

import fxprune
from fxprune import passes
from fxprune.diffing.text import statistics, story, unified

STEPS = [passes.RemoveLayers(), passes.FuseResConv(), passes.FoldBatchNorm(), passes.Simplify()]


def whole() -> fxprune.GraphDiff:
    inserted = fxprune.Pipeline([passes.InsertResConv()])(tiny())
    sparse = with_scales(tiny(), (0.0, 1.0), (0.5, 0.5))
    result = fxprune.Pipeline(STEPS)(sparse)
    return fxprune.diff(tiny(), result.graph_module, results=[inserted, result])


def test_unified() -> None:
    text = str(whole())
    lines = text.splitlines()
    assert lines[0] == "  ... 1 unchanged"
    assert lines[1] == "@@ stem @@"
    assert lines[2].startswith("* 0 + 1")
    assert lines[3] == "      fold-batch-norm: is folded into stem_0 (stem.0)"
    at = lines.index("@@ block1 @@")
    assert " ".join(lines[at + 1].split()) == "- conv1 Conv2d 3x3, 6 -> 6 20,736 -> 0 MACs, 324 -> 0 params"
    assert lines[at + 2].strip() == "insert-resconv: is now a ResConv with scale 1, shortcut 0"
    assert lines[at + 3].strip() == "remove-layers: its scale is 0; 1 * x takes its place"
    assert lines[at + 4].startswith("- bn1")
    assert lines[at + 5].strip() == "as above"
    assert lines[-2].startswith("11 unchanged, 0 changed, 4 fused, 3 removed")
    assert lines[-1] == "nodes 22 -> 15, MACs 93,342 -> 72,606, params 1,553 -> 1,193"


def test_only_some_kinds() -> None:
    lines = unified(whole(), ["removed"])
    assert {line.style for line in lines} == {"module", "removed", "why", "note"}


def test_nothing_changed() -> None:
    lines = [line.text for line in unified(fxprune.diff(tiny(), tiny()))]
    assert lines[:2] == ["  ... 22 unchanged", "22 unchanged, 0 changed, 0 fused, 0 removed, 0 added"]


def test_statistics() -> None:
    lines = [line.text for line in statistics(whole())]
    modules = {line.split("|")[0].strip(): line for line in lines if "|" in line}
    assert list(modules) == ["stem", "block1", "block2"]
    assert "41,472 -> 20,736 MACs" in modules["block1"]
    assert modules["block1"].rpartition("| ")[2].count("-") == 3  # conv, norm, relu
    assert lines[-1].startswith("nodes 22 -> 15")


def test_the_bar_is_never_longer_than_a_line() -> None:
    found = whole()
    many = fxprune.GraphDiff(found.changes * 100, found.before, found.after, "origin")
    assert max(len(line.text) for line in statistics(many)) < 118


@pytest.mark.parametrize("name", ["block1.conv1", "block1_conv1"])
def test_the_story_of_a_removed_layer(name: str) -> None:
    assert [line.text for line in story(whole(), name)] == [
        "block1_conv1: Conv2d 3x3, 6 -> 6, 20,736 MACs, 324 parameters",
        "  1. insert-resconv: is now a ResConv with scale 1, shortcut 0",
        "  2. remove-layers: its scale is 0; 1 * x takes its place",
        "  removed",
    ]


def test_the_story_of_what_stayed_says_why() -> None:
    def reasons(name: str) -> list[str]:
        return [line.text.strip() for line in story(whole(), name) if "left alone" in line.text]

    assert reasons("stem.0") == ["left alone by insert-resconv: it changes the channels (3 -> 6)"]
    assert reasons("block1.conv2") == ["left alone by remove-layers: its scale 0.5 is above 0.01"]
    assert reasons("block1.conv1") == []  # it went: no reason to stay is left


def test_the_story_of_what_was_absorbed_and_of_what_is_not_there() -> None:
    lines = [line.text for line in story(whole(), "stem.1")]
    assert lines[-1] == "  fused: stem_0 and stem_1 are now stem_0, a Conv2d"
    assert story(whole(), "nothing") == []
    assert [line.text for line in story(whole(), "head")][-1] == "  unchanged"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_no_harm(name: str) -> None:
    found = hostile(name)
    for lines in (unified(found), statistics(found), story(found, name)):
        assert lines
        assert all(line.text.isprintable() for line in lines)
    html = found._repr_html_()
    assert re.sub(r'</?pre>|</?span( style="color:#\w{6}")?>', "", html).count("<") == 0
    assert "@@" in html
