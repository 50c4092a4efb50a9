"""The writer: nodes in front of one, which stand for it; a size is asked for once."""

from __future__ import annotations

import operator

import torch
from torch import nn

import fxprune
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import origins
from fxprune.rewriting.contract import Log
from fxprune.rewriting.rewriter import Rewriter
from fxprune.rewriting.writer import Writer


def test_what_it_writes_stands_for_the_node() -> None:
    graph = copy_graph_module(fxprune.trace(nn.Sequential(nn.ReLU(), nn.Tanh()).eval(), torch.randn(2, 3)))
    x, relu, tanh, _ = graph.graph.nodes
    writer = Writer(tanh, Rewriter(graph, Log(), "testing"))
    width = writer.size(relu, 1)
    assert writer.size(relu, 1) is width
    scaled = writer.call(operator.mul, relu, width)
    wide = writer.layer("wide", nn.Linear(3, 4), writer.method("reshape", scaled, -1, 3), of=[relu])
    total = writer.call(torch.sum, wide, dim=-1)
    assert [node.name for node in graph.graph.nodes] == [
        x.name,
        relu.name,
        "size",
        "mul",
        "reshape",
        "wide",
        "sum_1",
        tanh.name,
        "output",
    ]
    assert origins(scaled) == origins(tanh)
    assert origins(wide) == (*origins(relu), *origins(tanh))
    assert total.kwargs == {"dim": -1}
