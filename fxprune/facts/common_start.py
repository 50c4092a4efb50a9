"""How far two graphs compute the same, from their inputs on."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module


def common_start(one: fx.GraphModule, other: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Return the first nodes of ``one`` that do what those of ``other`` do, with these, in order.

    They call the same layers, not equal ones: what a pass leaves alone both graphs share.
    """
    found: dict[fx.Node, fx.Node] = {}
    for node, twin in zip(one.graph.nodes, other.graph.nodes, strict=False):
        if node.op != twin.op or node.op == "output" or not _is_same(node, twin, found):
            break
        found[node] = twin
    return found


def _is_same(node: fx.Node, twin: fx.Node, known: dict[fx.Node, fx.Node]) -> bool:
    if node.op == "call_module":
        if called_module(node) is not called_module(twin):
            return False
    elif node.op == "get_attr":
        return _value(node) is _value(twin)
    elif node.target != twin.target:
        return False
    given = fx.map_arg((node.args, node.kwargs), known.get)
    return bool(given == (twin.args, twin.kwargs))


def _value(node: fx.Node) -> Any:
    owner = node.graph.owning_module
    assert owner is not None
    return attribute(owner, str(node.target))
