"""What the page embeds: every node once, safely, and what one graph's page says of each."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from helpers import TinyNet, example, tiny
from render_helpers import Open, Stages
from torch import fx, nn

import fxprune
from fxprune import GraphDiff
from fxprune.choosing.channel_inspection import inspect_channels
from fxprune.choosing.inspection import inspect_graph
from fxprune.render.html import graph_page, page


def embedded(text: str) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_policy_allows_what_the_page_holds_and_nothing_else(pruned: tuple[Stages, GraphDiff]) -> None:
    text = page(*pruned, title="t")
    policy = re.search(r'content="(default-src [^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag, source in (("style", "style-src"), ('script type="module"', "script-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag.split()[0]}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy[1]
    assert "innerHTML" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_a_node_is_written_once(pruned: tuple[Stages, GraphDiff]) -> None:
    stages, whole = pruned
    data = embedded(page(stages, whole, title="t"))
    rows = [json.dumps(node) for node in data["nodes"]]
    assert len(set(rows)) == len(rows)
    assert [stage["name"] for stage in data["stages"]] == [*(name for name, _ in stages), "whole"]
    for stage, one in zip(data["stages"], (*(one for _, one in stages), whole), strict=True):
        for (kind, before, after, *_), change in zip(stage["changes"], one.changes, strict=True):
            assert data["kinds"][kind]["name"] == change.kind
            names = tuple(data["nodes"][index][0] for index in before)
            assert names == tuple(node.name for node in change.before)
            assert (None if after < 0 else data["nodes"][after][0]) == (change.after and change.after.name)


def test_trained_scales_are_known_by_the_names_of_the_first_graph(pruned: tuple[Stages, GraphDiff]) -> None:
    trained = embedded(page(*pruned, title="t"))["trained"]
    assert trained == {
        "block1_conv1": 0.0,
        "block1_conv2": 0.5,
        "iadd": 0.5,
        "block2_conv1": 0.5,
        "block2_conv2": 0.5,
        "iadd_1": 0.0,
    }


def test_a_guess_is_called_one() -> None:
    graph = tiny()
    assert embedded(page([], fxprune.diff(graph, graph), title="t"))["notes"] == []
    found = replace(fxprune.diff(graph, graph), matched_by="guess")
    assert "guess" in embedded(page([], found, title="t"))["notes"][0]


def kinds_of(graph: fx.GraphModule) -> dict[str, str]:
    data = embedded(graph_page(graph, inspect_graph(graph), title="t"))
    kinds = [kind["name"] for kind in data["kinds"]]
    return {data["nodes"][after][0]: kinds[kind] for kind, _, after, *_ in data["stages"][0]["changes"]}


def test_one_graph_says_what_can_be_pruned() -> None:
    kinds = kinds_of(tiny())
    assert {name for name, kind in kinds.items() if kind == "eligible"} == {
        "block1_conv1", "block1_conv2", "iadd", "block2_conv1", "block2_conv2", "iadd_1"
    }  # fmt: skip
    assert kinds["stem_0"] == "kept"
    assert kinds["stem_1"] == "other"


class Choosing(nn.Module):
    """Branches on a value, so that it stays opaque; what is inside it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet()

    def forward(self, x: Any) -> Any:
        y = self.net(x)
        return y if y.sum() > 0 else -y


def test_what_is_opaque_is_marked_and_looked_into(opened: Open) -> None:
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 3, 1), Choosing()), example(2, 3, 8, 8).float())
    kinds = kinds_of(graph)
    assert [name for name, kind in kinds.items() if kind == "opaque"] == ["_1"]
    assert kinds["1.net.block1_conv1"] == "eligible"
    tab = opened(graph_page(graph, inspect_graph(graph), title="choosing"))
    assert tab.locator(".row.line").count() == len(kinds)
    assert "opaque" in tab.locator("#notes").inner_text()
    tab.locator(".row.opaque").click()
    assert "1 hides 0 convs" in tab.locator("#details").inner_text()


def test_the_page_of_one_graph(opened: Open) -> None:
    graph = tiny()
    found = inspect_graph(graph)
    tab = opened(graph_page(graph, found, title="TinyNet"))
    assert tab.locator(".row.line").count() == len(graph.graph.nodes)
    assert tab.locator(".row.line .side").count() == len(graph.graph.nodes)  # one column
    tiles = [tile.get_attribute("title") for tile in tab.locator("#tiles > div").all()]
    assert tiles[0] == f"{found.removable_macs:,} of {found.macs:,}"
    assert tab.locator("#steps").is_hidden()
    assert "stays: it changes the channels (3 -> 6)" in tab.locator(".row.kept").inner_text()
    tab.locator("#focus").click()
    assert tab.locator(".row.line").count() == 7
    tab.locator(".row.eligible").nth(2).click()
    details = tab.locator("#details").inner_text()
    assert "block1 [conv1 ... bn2] can be removed" in details


def test_the_page_of_one_graph_tells_of_channels() -> None:
    graph = fxprune.trace(nn.Sequential(nn.Conv2d(3, 3, 1), Choosing()), example(2, 3, 8, 8).float())
    found, channels = inspect_graph(graph), inspect_channels(graph)
    data = embedded(graph_page(graph, found, channels, title="t"))
    whys = {
        data["nodes"][after][0]: [data["reasons"][index] for index in why]
        for _, _, after, _, why in data["stages"][0]["changes"]
    }
    told = [rule for label, rule, _ in whys["1.net.block1_conv1"] if label == "channels"]
    assert [one.partition(":")[0] for one in told] == ["makes", "reads"]
    assert told == channels.marks("1.net.block1.conv1")
    assert [rule.partition(":")[0] for label, rule, _ in whys["1.net.block1_bn1"]] == ["carries"]
    tiles = {tile["label"]: (tile["part"], tile["whole"]) for tile in data["stages"][0]["tiles"]}
    assert tiles["removable output channels"] == (channels.removable_outputs, channels.outputs)
    assert kinds_of(graph) == {  # the marks are those of layers
        data["nodes"][after][0]: data["kinds"][kind]["name"] for kind, _, after, *_ in data["stages"][0]["changes"]
    }


def test_a_click_shows_what_is_known_of_channels(opened: Open) -> None:
    graph = tiny()
    channels = inspect_channels(graph)
    tab = opened(graph_page(graph, inspect_graph(graph), channels, title="TinyNet"))
    tab.locator(".row.eligible").first.click()
    assert channels.marks("block1.conv1")[0] in tab.locator("#details").inner_text()
    assert tab.locator(".row.other .reason").count() == 0  # of what has no mark the details alone tell
    titles = [tile.get_attribute("title") for tile in tab.locator("#tiles > div").all()]
    assert f"{channels.removable_outputs:,} of {channels.outputs:,}" in titles


@pytest.mark.parametrize(
    ("title", "escaped"),
    [("<b>", "&lt;b&gt;"), ("\"'&", "&quot;&#x27;&amp;"), ("層", "&#23652;"), ("\udcff", "&#56575;")],
)
def test_titles_are_escaped(title: str, escaped: str) -> None:
    graph = tiny()
    text = page([], fxprune.diff(graph, graph), title=title)
    shown = re.findall(r"<title>(.*?)</title>|<h1>(.*?)</h1>", text)
    assert [head or body for head, body in shown] == [escaped, escaped]
