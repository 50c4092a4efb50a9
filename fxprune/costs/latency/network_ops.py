"""The timed ops of a graph, and of all its regions, for a number of inputs at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from fxprune.costs.latency.conditions import Layout
from fxprune.costs.latency.layouts import in_layout_of, inputs_in
from fxprune.costs.latency.timed_ops import OpsOfGraph, TimedOp
from fxprune.costs.macs import batch_size
from fxprune.errors import FxpruneValueError
from fxprune.ir.module_tree import is_opaque, is_region, regions_in
from fxprune.ir.nodes import called_module, example_inputs_of, graphs_of
from fxprune.ir.pytrees import map_tensors, tensors_in


def inputs_at(graph_module: fx.GraphModule, batch: int) -> tuple[Any, ...]:
    """Return the example inputs of a graph, so many at a time: the first, again and again.

    Raises FxpruneValueError if the inputs share no first dimension.
    """
    inputs, own = example_inputs_of(graph_module), int(batch_size(graph_module))
    if batch == own:
        return inputs
    if {one.shape[0] if one.dim() else 0 for one in tensors_in(inputs)} != {own}:
        raise FxpruneValueError("the inputs share no first dimension that a batch could be; leave out batch")
    found: tuple[Any, ...] = map_tensors(inputs, lambda one: one[:1].repeat(batch, *[1] * (one.dim() - 1)))
    return found


def ops_of(graph_module: fx.GraphModule, batch: int, layout: Layout = "contiguous") -> list[TimedOp]:
    """Return the timed ops of one graph; of a region in all its calls, for so many inputs of the whole graph.

    Values lie in memory as they do where inputs and weights have this layout, whatever they have here.
    """
    calls, own = batch / float(batch_size(graph_module)), {node.name: node for node in graph_module.graph.nodes}
    graph = in_layout_of(graph_module, layout)
    inputs = example_inputs_of(graph)
    if not is_region(graph):
        inputs, calls = inputs_at(graph, batch), 1.0
    found = OpsOfGraph(graph, inputs_in(graph, inputs, layout)).timed()
    return [
        replace(
            one,
            node=own[one.node.name],
            axes=tuple((own[node.name], axis) for node, axis in one.axes),
            calls=calls,
            inside=_inside(one.node, batch, layout),
        )
        for one in found
    ]


def ops_of_all(graph_module: fx.GraphModule, batch: int, layout: Layout = "contiguous") -> list[TimedOp]:
    """Return the timed ops of a graph and of its regions, each region once, however often it is called."""
    return [op for _, graph in graphs_of(graph_module) for op in ops_of(graph, batch, layout)]


def _inside(node: fx.Node, batch: int, layout: Layout) -> tuple[TimedOp, ...]:
    """Return what is timed in the regions that a node calls: of several calls of one module each has its part."""
    module = called_module(node)
    if module is None or not is_opaque(module):
        return ()
    sites = sum(called_module(one) is module for one in node.graph.find_nodes(op="call_module"))
    found = [op for _, region in regions_in(module) for op in ops_of(region, batch, layout)]
    return tuple(replace(op, calls=op.calls / sites, inside=()) for op in found)
