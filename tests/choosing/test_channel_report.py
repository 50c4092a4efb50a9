"""What is told of channels: a table, plain data, and the story of one layer."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from fxprune.choosing.channel_report import ChannelGroup, ChannelInspection, Stay

STAY = Stay("norm", "LayerNorm", "its statistics are of all channels", 1, "")
STEM = ChannelGroup(
    name="stem",
    width=64,
    removable=64,
    choices=64,
    macs=250,
    params=1234,
    made_by=("stem", "outer"),
    read_by=("inner", "head"),
    carried_by=("norm",),
    tied_at=("add",),
    stays=(),
    freed_by=(),
)
STREAM = replace(
    STEM,
    name="stream",
    removable=0,
    choices=1,
    macs=0,
    params=0,
    made_by=("stream",),
    carried_by=(),
    read_by=("head",),
    tied_at=(),
    stays=(STAY,),
    freed_by=("statistics='approximate'",),
)


def inspection(*groups: ChannelGroup, closed: tuple[Stay, ...] = ()) -> ChannelInspection:
    return ChannelInspection(groups, 200, 128, 1000, 600, closed)


def test_the_whole_in_one_line() -> None:
    told = "2 groups, 128 of 200 output channels can go (64%) and hold 60.0% of the MACs"
    assert inspection(STEM, STREAM).summary == f"channels: {told}"
    assert inspection(STEM).summary.startswith("channels: 1 group, 128")
    none = ChannelInspection((), 0, 0, 0, 0, ())
    assert none.summary == "channels: 0 groups, 0 of 0 output channels can go (0%) and hold 0.0% of the MACs"
    assert none.summary in str(none)


def test_a_table_of_groups() -> None:
    head, _, stem, stream, *_ = str(inspection(STEM, STREAM)).splitlines()
    assert " ".join(head.split()) == "channels of width can go MACs params go with why others stay"
    assert " ".join(stem.split()) == "stem 64 64 25.0% 1,234 those of outer, tied at add"
    assert stream.split()[:5] == ["stream", "64", "0", "0.0%", "0"]
    assert "norm: its statistics are of all channels" in stream
    assert "freed by statistics='approximate'" in " ".join(str(inspection(STREAM)).split())


def test_long_lists_are_cut_short() -> None:
    many = replace(STEM, made_by=("stem", *"abcde"), tied_at=tuple("vwxyz"))
    table = " ".join(str(inspection(many)).split())
    assert "those of a, b, c and 2 more, tied at v, w, x and 2 more" in table
    assert "go with those of a, b, c, d, e" in " ".join(inspection(many).why("stem"))


def test_the_story_of_a_layer() -> None:
    found = inspection(STEM, STREAM)
    assert found.why("outer") == [
        "makes: 64 of the 64 channels of the group stem can go, with 25.0% of the MACs and 1,234 parameters",
        "  go with those of stem",
        "  tied at add",
        "  carried by norm",
        "  read by inner, head",
    ]
    assert found.why("stream") == [
        "makes: 0 of the 64 channels of the group stream can go; they are 1 choice",
        "  read by head",
        "  1 of 1 stay: norm: its statistics are of all channels",
        "  freed by statistics='approximate'",
    ]
    assert [one.partition(":")[0] for one in found.why("head")] == ["reads", "reads"]
    assert [one.partition(":")[0] for one in found.why("norm")] == ["carries"]
    assert found.why("nothing") == []
    assert set(found.paths) == {"stem", "outer", "inner", "head", "norm", "stream"}


def test_what_a_page_says_of_a_layer() -> None:
    found = inspection(STEM, STREAM)
    (mark,) = found.marks("stem")
    assert mark.endswith("can go, with 25.0% of the MACs and 1,234 parameters; those of outer, tied at add")
    (mark,) = found.marks("stream")
    assert "; norm: its statistics are of all channels; freed by statistics='approximate'" in mark
    many = inspection(*(replace(STEM, name=str(number)) for number in range(8)))
    assert len(many.marks("head")) == 4
    assert many.marks("head")[-1] == "and 5 other groups"


@pytest.mark.parametrize("freed_by", ["SplitAttention", ""])
def test_layers_that_are_not_looked_into(freed_by: str) -> None:
    closed = [Stay(f"attention{number}", "Attention", "Attention has no rule", 0, freed_by) for number in range(5)]
    found = inspection(STEM, closed=tuple(closed))
    advice = f"; freed by {freed_by}" if freed_by else ""
    told = f"not looked into: attention0, attention1, attention2 and 2 more: Attention has no rule{advice}"
    assert found.notes == [told]
    assert told in str(found)
    assert found.why("attention4") == [f"not looked into: attention4: Attention has no rule{advice}"]


def test_plain_data() -> None:
    found = json.loads(json.dumps(inspection(STEM, STREAM, closed=(STAY,)).to_json()))
    assert set(found) == {
        *("channel_outputs", "removable_channel_outputs", "removable_macs_in_channels"),
        *("channels", "closed_to_channels"),
    }
    assert [found["channel_outputs"], found["removable_channel_outputs"]] == [200, 128]
    assert found["removable_macs_in_channels"] == 600
    stem, stream = found["channels"]
    assert list(stem) == [one.name for one in fields(ChannelGroup)]
    assert stem["made_by"] == ["stem", "outer"]
    assert stream["stays"] == [
        {"at": "norm", "op": "LayerNorm", "why": STAY.why, "choices": 1, "freed_by": ""},
    ]
    assert [list(one) for one in found["closed_to_channels"]] == [["path", "op", "why", "freed_by"]]
