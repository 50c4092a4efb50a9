"""Constant factors in a graph, and which ops a factor passes through."""

from __future__ import annotations

import math

from torch import fx

from fxprune.facts.shapes import is_floating, same_shape, takes_dtype
from fxprune.ops.call import Call, operands


def constant_factor(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return (x, a) if ``node`` is x * a with a Python number a, in the shape and floating dtype of x; else None."""
    both = operands(node, "mul")
    if both is None:
        return None
    left, right = both
    source, factor = (right, left) if isinstance(right, fx.Node) else (left, right)
    if not isinstance(source, fx.Node) or not isinstance(factor, (int, float)) or isinstance(factor, bool):
        return None
    is_scale = math.isfinite(factor) and is_floating(node) and same_shape(source, node)
    return (source, float(factor)) if is_scale else None


def passes_factor(node: fx.Node, factor: float) -> bool:
    """Say whether scaling the first input of ``node`` by ``factor`` scales its output, and nothing else does."""
    call = Call(node)
    op = call.exact
    if op is None or op.homogeneous == "no" or op.kind in ("arithmetic", "join"):
        return False
    if op.homogeneous == "positive" and factor <= 0:
        return False
    source = call.input
    if source is None or not is_floating(node) or takes_dtype(node):
        return False  # indices, which a layer may return beside its values, do not scale
    return len(node.all_input_nodes) == 1 or _reads_once(node, source)


def _reads_once(node: fx.Node, source: fx.Node) -> bool:
    """Say whether ``node`` reads ``source`` in one argument alone."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda read: found.append(read) or read)  # type: ignore[func-returns-value]
    return found.count(source) == 1
