from helpers import tiny

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
