"""How large what nodes read is, on the example inputs: the unit of the shortcuts of ResConvs.

It is measured when training begins (:func:`fxprune.pruning.measure_inputs`), and when a layer is cut that was never
trained. Inserting a ResConv needs no unit: its shortcut is zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from fxprune.facts.kept_state import keeping_state
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import EXAMPLE_INPUTS, example_inputs_of
from fxprune.ir.pytrees import copy_tensors


def input_sizes(graph_module: fx.GraphModule, nodes: Collection[fx.Node]) -> dict[fx.Node, float]:
    """Return the root mean square of what each of ``nodes`` reads first, on the graph's example inputs.

    One forward pass in eval mode, where the weights are. A size that is no unit, 0 or infinite, is given as 1. Of a
    graph without example inputs nothing is known: an empty dict.
    """
    if not nodes or EXAMPLE_INPUTS not in graph_module.meta:
        return {}
    sources = {node: node.args[0] if node.args else node.kwargs["input"] for node in nodes}
    runner = _SizeRecorder(graph_module, set(sources.values()))
    inputs = copy_tensors(example_inputs_of(graph_module))
    with keeping_state(graph_module), evaluating(graph_module):
        runner.run(*inputs)
    found = {node: runner.sizes[source] for node, source in sources.items()}
    return {node: size if 0 < size < math.inf else 1.0 for node, size in found.items()}


def root_mean_square(value: torch.Tensor) -> float:
    """Return the size of a tensor's elements."""
    return float(value.detach().float().square().mean().sqrt())


class _SizeRecorder(Interpreter):
    def __init__(self, graph_module: fx.GraphModule, wanted: Collection[Any]) -> None:
        super().__init__(graph_module)
        self.wanted = wanted
        self.sizes: dict[Any, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted:
            self.sizes[n] = root_mean_square(value)
        return value
