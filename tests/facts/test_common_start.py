import torch
from helpers import tiny

from fxprune import passes
from fxprune.facts.common_start import common_start


def test_it_ends_where_a_layer_is_another() -> None:
    graph = tiny()
    cut = passes.RemoveChannels(indices={"block2.conv1": [0]})(graph).graph_module
    same = common_start(cut, graph)
    names = [node.name for node in same]
    assert names == [twin.name for twin in same.values()]
    assert "block1_conv2" in names
    assert "block2_conv1" not in names


def test_a_graph_has_all_of_itself_but_the_output() -> None:
    graph = tiny()
    assert len(common_start(graph, graph)) == len(graph.graph.nodes) - 1


def test_other_arguments_end_it() -> None:
    one, other = (torch.fx.symbolic_trace(lambda x, k=k: torch.relu(x + k)) for k in (1, 2))
    assert [node.op for node in common_start(one, other)] == ["placeholder"]
