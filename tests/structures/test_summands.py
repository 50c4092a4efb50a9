import torch
from helpers import tiny

from fxprune.structures.summands import summand


def test_what_a_sum_lacks_is_what_its_conv_must_compute() -> None:
    graph = tiny()
    nodes = {node.name: node for node in graph.graph.nodes}
    term = summand(nodes["block1_conv2"])
    assert term is not None
    assert term.norm is graph.get_submodule("block1.bn2")
    y, other = torch.randn(2, 2, 6, 4, 4, dtype=torch.float64)
    total = term.norm(y) + other
    torch.testing.assert_close(term.wanted(total, other, torch.zeros_like(y)), y)


def test_other_layers_are_none() -> None:
    graph = tiny()
    nodes = {node.name: node for node in graph.graph.nodes}
    assert summand(nodes["block1_conv1"]) is None
    assert summand(nodes["head"]) is None


def test_a_channel_that_the_norm_closes_stays_as_it_was() -> None:
    graph = tiny()
    nodes = {node.name: node for node in graph.graph.nodes}
    norm = graph.get_submodule("block1.bn2")
    with torch.no_grad():
        norm.weight[2] = 0  # type: ignore[operator]
    term = summand(nodes["block1_conv2"])
    assert term is not None
    y, other, plain = torch.randn(3, 2, 6, 4, 4, dtype=torch.float64)
    found = term.wanted(norm(y) + other, other, plain)
    torch.testing.assert_close(found[:, 2], plain[:, 2])
    torch.testing.assert_close(found[:, :2], y[:, :2])
