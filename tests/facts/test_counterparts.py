from pathlib import Path

from helpers import tiny

import fxprune
from fxprune import passes
from fxprune.facts.counterparts import counterparts


def test_they_are_known_with_what_is_left() -> None:
    graph = tiny()
    cut = passes.RemoveChannels(indices={"block1.conv1": [1, 4]})(graph).graph_module
    found = {node.name: one for node, one in counterparts(cut, graph).items()}
    assert {name: one.node.name for name, one in found.items()} == {name: name for name in found}
    assert found["block1_conv1"].places[1].tolist() == [0, 2, 3, 5]
    assert not found["block1_conv2"].places


def test_what_a_graph_lost_before_does_not_count() -> None:
    graph = tiny()
    once = passes.RemoveChannels(indices={"block1.conv1": [1]})(graph).graph_module
    twice = passes.RemoveChannels(indices={"block1.conv1": [3]})(once).graph_module  # the fifth of all
    found = {node.name: one for node, one in counterparts(twice, once).items()}
    assert found["block1_conv1"].places[1].tolist() == [0, 1, 2, 4]


def test_the_numbers_of_a_network_that_was_loaded_are_not_those_of_the_first(tmp_path: Path) -> None:
    graph = tiny()
    once = passes.RemoveChannels(indices={"block1.conv1": [0, 1]})(graph).graph_module
    fxprune.emit(once, tmp_path / "out")
    loaded = fxprune.load_emitted(tmp_path / "out")
    twice = passes.RemoveChannels(indices={"block1.conv1": [0]})(loaded).graph_module  # the third of all
    others = counterparts(twice, graph)
    found = {str(node.target): others.get(node) for node in twice.graph.find_nodes(op="call_module")}
    assert found["block1.conv1"] is None
    assert found["block1.conv2"] is not None


def test_what_the_other_graph_has_lost_has_none() -> None:
    graph = tiny()
    one, other = (passes.RemoveChannels(indices={"block1.conv1": [index]})(graph).graph_module for index in (1, 4))
    found = {node.name for node in counterparts(one, other)}
    assert "block1_conv1" not in found
    assert "block1_conv2" in found
