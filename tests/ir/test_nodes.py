"""What is asked of all nodes at once is what is asked of each."""

from __future__ import annotations

from helpers import example, traced
from torch import nn

from fxprune.ir.nodes import called_module, called_modules


def test_modules_that_are_called() -> None:
    shared = nn.Conv2d(4, 4, 1)
    inner = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.BatchNorm2d(4))
    graph = traced(nn.Sequential(inner, shared, nn.Flatten()), example(2, 4, 8, 8))
    called = {node: called_module(node) for node in graph.graph.nodes if node.op == "call_module"}
    assert called_modules(graph) == called
    assert list(called_modules(graph)) == list(called)
    assert len(called) == 5
