"""The one way in which passes edit a graph: what is new inherits, what was done is logged, facts end with an edit.

rewriter = Rewriter(graph_module, log, "fuse-branch-scale")
rewriter.log.rewrote(node, "its scale now multiplies the branch")
product = rewriter.insert("call_function", operator.mul, (branch, scale), before=node, of=(branch,))
rewriter.replace(node, product)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from typing import Any, TypeVar

import torch
from torch import fx, nn

from fxprune.ir.node_targets import set_attribute, set_buffer
from fxprune.ir.nodes import inherit
from fxprune.ir.weight_blocks import BLOCKS
from fxprune.rewriting.contract import Log

_Fact = TypeVar("_Fact")


class Facts:
    """What holds of one version of a graph: ``facts(bounds_of_values)``, worked out when it is first asked for."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self._known: dict[Callable[[fx.GraphModule], Any], Any] = {}

    def __call__(self, find: Callable[[fx.GraphModule], _Fact]) -> _Fact:
        """Return what ``find``, a function or a class of :mod:`fxprune.facts`, says of this version."""
        if find not in self._known:
            self._known[find] = find(self.graph_module)
        return self._known[find]  # type: ignore[no-any-return]


class Rewriter:
    """Edits one graph, a copy that is the pass's own, in the name of the pass ``made_by``."""

    def __init__(self, graph_module: fx.GraphModule, log: Log, made_by: str) -> None:
        self.graph_module = graph_module
        self.log = log
        self.made_by = made_by
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """What holds of the graph as it is now; ask anew after an edit."""
        self._facts = self._facts or Facts(self.graph_module)
        return self._facts

    def insert(
        self, op: str, target: Any, args: tuple[Any, ...] = (), *, before: fx.Node, of: Sequence[fx.Node]
    ) -> fx.Node:
        """Return a new node in front of ``before``, which stands for ``of`` and has the metadata of the last."""
        self._facts = None
        with before.graph.inserting_before(before):
            new = before.graph.create_node(op, target)
        new.args = args  # given above, torch.fx would look through them first
        return inherit(new, *of, made_by=self.made_by)

    def copy(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """Return a new node in front of ``before`` that holds what ``value`` is by then."""
        return self.insert("call_function", torch.clone, (value,), before=before, of=(value,))

    def put(self, target: str, value: nn.Module | torch.Tensor) -> str:
        """Put a new layer, parameter or buffer at ``target``, which is free, and return ``target``."""
        if isinstance(value, (nn.Module, nn.Parameter)):
            set_attribute(self.graph_module, target, value)
        else:
            set_buffer(self.graph_module, target, value)
        return target

    def set_layer(self, node: fx.Node, value: nn.Module | nn.Parameter, *absorbed: fx.Node) -> None:
        """Have ``node`` call, or read, ``value`` from now on; it then stands for ``absorbed`` too.

        What it called is shared with the graph that the pass was given, and stays as it is.
        """
        self._facts = None
        set_attribute(self.graph_module, str(node.target), value)
        blocks = node.meta.get(BLOCKS)
        inherit(node, node, *absorbed, made_by=self.made_by)
        if blocks is not None:  # of the layer that it calls, and not of what that has absorbed
            node.meta[BLOCKS] = blocks

    def replace(self, node: fx.Node, by: fx.Node, readers: Container[fx.Node] | None = None) -> None:
        """Have what reads ``node``, or ``readers`` alone, read ``by``; erase ``node`` if nothing reads it then."""
        self._facts = None
        chosen = None if readers is None else readers.__contains__
        node.replace_all_uses_with(by, delete_user_cb=chosen, propagate_meta=False)
        if not node.users:
            self._erase(node)

    def replace_input(self, node: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Have ``node`` read ``new`` wherever it read ``old``."""
        self._facts = None
        node.replace_input_with(old, new)

    def erase(self, nodes: Collection[fx.Node]) -> None:
        """Erase ``nodes``, which only each other read."""
        waiting = [node for node in nodes if not node.users]
        while waiting:
            node = waiting.pop()
            sources = node.all_input_nodes
            self._erase(node)
            waiting += [source for source in sources if source in nodes and not source.users]

    def replace_computation(self, node: fx.Node, by: fx.Node, readers: Container[fx.Node] | None = None) -> None:
        """:meth:`replace` ``node``, and erase all that is needed for nothing else then.

        That must be free of side effects.
        """
        waiting = node.all_input_nodes
        self.replace(node, by, readers)
        while waiting:
            dead = waiting.pop()
            if dead.users or dead.op == "placeholder":
                continue
            sources = dead.all_input_nodes
            self._erase(dead)
            waiting += [source for source in sources if source not in waiting]

    def _erase(self, node: fx.Node) -> None:
        self._facts = None
        node.graph.erase_node(node)
