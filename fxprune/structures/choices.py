"""What a choice by mode scales with: stochastic depth scales with the branch that it drops or keeps."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.shapes import is_size
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ops.operators import PRODUCTS, calls

# They read the shape, the dtype and the device of a tensor, and not its values.
_LIKE: set[Any] = {
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"),
    *(torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like),
}
_QUOTIENTS: set[Any] = {operator.truediv, torch.div, "div"}


def scaled_source(node: fx.Node, factor: float) -> fx.Node | None:
    """Return the x of ``node`` = by_mode(training, f(x), x) where f(factor * x) = factor * f(x).

    None if ``node`` is no such choice, or if anything beside it reads the values of x.
    """
    source = chosen(node, False) if is_by_mode(node) else None
    if not isinstance(source, fx.Node):
        return None
    computed: set[fx.Node] = set()
    waiting = [source]
    while waiting:
        for user in waiting.pop().users:
            if user is not node and user not in computed and not _reads_no_values(user):
                computed.add(user)
                waiting.append(user)
    scaled = {source, *computed}
    is_whole = chosen(node, True) in scaled and all(_scales(one, scaled, factor) for one in computed)
    return source if is_whole else None


def _reads_no_values(node: fx.Node) -> bool:
    return is_size(node) or calls(node, _LIKE)


def _scales(node: fx.Node, scaled: Collection[fx.Node], factor: float) -> bool:
    """Say whether ``node`` scales if those ``scaled`` do, and all else that it reads stays."""
    read = [one for one in node.all_input_nodes if one in scaled]
    first = node.args[0] if node.args else None
    if len(read) != 1 or node.op == "output":
        return False
    if calls(node, PRODUCTS) and len(node.args) == 2:
        return node.args[0] is not node.args[1]
    is_quotient = calls(node, _QUOTIENTS) and len(node.args) == 2 and not node.kwargs
    return first is read[0] and (is_quotient or passes_factor(node, factor))
