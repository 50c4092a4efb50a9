"""Graphs for other tools: every entry, every edge; names do no harm, whatever they are."""

from __future__ import annotations

import io
import json
import re

import networkx as nx
import pytest
from helpers import tiny, with_scales
from hostile_names import HOSTILE, hostile

import fxprune
from fxprune import passes


def test_every_entry_and_every_edge() -> None:
    result = fxprune.Pipeline([passes.RemoveLayers()])(with_scales(tiny(), (0.0, 0.5), (0.5, 0.5)))
    graph = result.diff.to_networkx()
    assert len(graph) == len(result.diff.changes)
    named = {data["before"] or data["after"]: n for n, data in graph.nodes(data=True)}
    removed, factor, relu = (named[name] for name in ("block1_conv1", "mul", "block1_relu"))
    assert graph.edges[removed, relu]["graphs"] == "before"
    assert graph.edges[factor, relu]["graphs"] == "after"
    assert graph.edges[relu, named["block1_conv2"]]["graphs"] == "both"
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.nodes[removed]["macs_before"] == 20_736
    assert graph.nodes[removed]["macs_after"] == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_no_harm(name: str) -> None:
    found = hostile(name)
    assert fxprune.GraphDiff.from_json(json.loads(json.dumps(found.to_json()))) == found

    text = found.to_graphml()
    text.encode()
    read = nx.parse_graphml(text)
    assert len(read) == 3
    assert {data["kind"] for _, data in read.nodes(data=True)} == {"changed", "removed", "added"}
    if name.isprintable():
        assert read.nodes["0"]["path"] == name

    dot = found.to_dot()
    dot.encode()
    quoted = r'"(?:[^"\\\n]|\\.)*"'
    line = rf"  n\d+ \[label={quoted}, color={quoted}, tooltip={quoted}\];|  n\d+ -> n\d+ \[style=\w+\];"
    first, second, *body, last = dot.splitlines()
    assert (first, second, last) == ("digraph diff {", "  node [shape=box, style=bold];", "}")
    assert len(body) == 5
    assert all(re.fullmatch(line, one) for one in body), body


def test_graphml_is_read_back_by_networkx() -> None:
    found = fxprune.diff(tiny(), tiny())
    read = nx.read_graphml(io.BytesIO(found.to_graphml().encode()))
    assert set(read.edges) == {(str(a), str(b)) for a, b in found.to_networkx().edges}
