"""The signature of a graph: shapes and dtypes of its outputs on the example inputs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxprune.facts.effects import is_foreign
from fxprune.facts.shapes import META, metadata_in, takes_dtype, values_of
from fxprune.ir.module_tree import is_opaque
from fxprune.ir.nodes import EXAMPLE_INPUTS, called_module, example_inputs_of, graphs_of, is_cast
from fxprune.ir.pytrees import tensors_in
from fxprune.rewriting.float64 import BothOutputs

_CALLS = ("call_function", "call_method")
_OF_PASSES: set[Any] = {operator.add, operator.mul, torch.clone}  # what ours call beside what was called before


def signature(graph_module: fx.GraphModule) -> str:
    """Return shapes and dtypes of the outputs on the example inputs, worked out afresh: a graph may have been cast.

    Where opaque modules compute, shapes may depend on data: there the number of dimensions stands for them, and the
    regions inside them are looked at exactly.
    """
    found: list[str] = []
    for _, graph in graphs_of(graph_module):
        values = values_of(graph, example_inputs_of(graph))
        found += _texts(graph, tensors_in(values[_output(graph)]))
    return ", ".join(found)


def told_signature(graph_module: fx.GraphModule) -> str | None:
    """Return what :func:`signature` does, by what was noted of shapes; None where that is missing or not so now."""
    found: list[str] = []
    for _, graph in graphs_of(graph_module):
        output = _output(graph)
        if is_cast(graph) or not all(META in node.meta for node in output.all_input_nodes):
            return None
        found += _texts(graph, metadata_in(fx.map_arg(output.args, lambda node: node.meta[META])))
    return ", ".join(found)


def keeps_signature(before: fx.GraphModule, after: fx.GraphModule, outputs: BothOutputs) -> bool:
    """Say whether it is plain to see that both have one signature, given that they return equal values in float64.

    Shapes are equal then, and so are all dtypes but those that float64 stood for. If there is one such dtype only,
    torch's default, and ``before`` was noted to compute nothing else, all that it calls keeps that dtype. So does
    ``after`` if it calls nothing but that, layers that hold that dtype, sums and products. False says nothing.
    """
    same_kinds = [one.dtype for one in outputs.before] == [one.dtype for one in outputs.after]
    if outputs.dtypes is None or not same_kinds or not all(map(_is_default, outputs.dtypes)):
        return False
    same_inputs = before.meta.get(EXAMPLE_INPUTS) is after.meta.get(EXAMPLE_INPUTS)
    if not same_inputs or is_cast(before) or not all(map(_is_noted_with_default, before.graph.nodes)):
        return False
    known = _OF_PASSES | {node.target for node in before.graph.nodes if node.op in _CALLS}
    called = (node for node in after.graph.nodes if node.op in _CALLS)
    return all(node.target in known and not is_foreign(node) and not takes_dtype(node) for node in called)


def _is_noted_with_default(node: fx.Node) -> bool:
    return META in node.meta and all(_is_default(one.dtype) for one in metadata_in(node.meta[META]))


def _is_default(dtype: torch.dtype) -> bool:
    return dtype is torch.get_default_dtype() or not (dtype.is_floating_point or dtype.is_complex)


def _output(graph: fx.GraphModule) -> fx.Node:
    (output,) = graph.graph.find_nodes(op="output", sort=False)
    assert isinstance(output, fx.Node)
    return output


def _texts(graph: fx.GraphModule, tensors: Sequence[torch.Tensor | TensorMetadata]) -> list[str]:
    by_data = any(is_opaque(called_module(node)) for node in graph.graph.nodes)
    return [f"{f'{len(one.shape)} dimensions' if by_data else tuple(one.shape)} {one.dtype}" for one in tensors]
