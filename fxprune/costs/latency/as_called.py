"""Ops that nobody can make at other widths are timed as they are called, with what they really read."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import fx

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.workloads import Alone, Workload, alone, digest
from fxprune.facts.kept_state import keeping_state
from fxprune.facts.shapes import META, metadata_in
from fxprune.ir.copies import copy_module
from fxprune.ir.interpreter import Interpreter
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import called_module
from fxprune.ir.pytrees import copy_tensors, map_tensors
from fxprune.ops.free_ops import op_name


class AsCalled:
    """What the ops of one graph read when it is called with ``inputs``; run when it is first asked for."""

    def __init__(self, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
        self._graph_module = graph_module
        self._inputs = inputs
        self._nodes: list[fx.Node] = []

    def workload(self, node: fx.Node) -> Workload:
        """Return the work of ``node``, without widths; it is known again by what it is called with."""
        self._nodes.append(node)
        module = called_module(node)
        what = op_name(node.target) if module is None else type(module).__qualname__
        given = fx.map_arg((node.args, node.kwargs), lambda one: _told(one))
        own = "" if module is None else [repr(module), *((n, p.shape) for n, p in module.named_parameters())]
        return Workload(
            f"{what} as called, {digest(given, own)}",
            (),
            (),
            False,
            lambda _, conditions: self._make(node, conditions),
        )

    def _make(self, node: fx.Node, conditions: Conditions) -> Alone:
        read = [map_tensors(self._read[one], conditions.placed) for one in node.all_input_nodes]
        module = called_module(node)
        if module is not None:
            module = conditions.placed(copy_module(module))
        places = {one: place for place, one in enumerate(node.all_input_nodes)}

        def again(x: list[fx.Node]) -> tuple[str, Any, Any, Any]:
            at = lambda one: x[places[one]]  # noqa: E731
            target = node.target if module is None else "op"
            return node.op, target, fx.map_arg(node.args, at), fx.map_arg(node.kwargs, at)

        return alone(again, read, module)

    @cached_property
    def _read(self) -> dict[fx.Node, Any]:
        """What the ops read, by the node that computes it."""
        wanted = {one for node in self._nodes for one in node.all_input_nodes}
        run = Interpreter(self._graph_module, keep=True)
        with torch.no_grad(), keeping_state(self._graph_module), evaluating(self._graph_module):
            run.run(*copy_tensors(self._inputs))
        return {node: run.env[node] for node in wanted}


def _told(node: fx.Node) -> Any:
    return str([(tuple(one.shape), one.dtype) for one in metadata_in(node.meta.get(META))] or node.name)
