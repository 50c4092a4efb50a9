"""What a choice by mode scales with: stochastic depth scales with the branch that it drops or keeps."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.shapes import is_size
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ops.call import Call, operands


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
    """Say whether ``node`` reads the shape, the dtype and the device of tensors, and not their values."""
    return is_size(node) or Call(node).kind == "new"


def _scales(node: fx.Node, scaled: Collection[fx.Node], factor: float) -> bool:
    """Say whether ``node`` scales if those ``scaled`` do, and all else that it reads stays."""
    read = [one for one in node.all_input_nodes if one in scaled]
    if len(read) != 1 or node.op == "output":
        return False
    product, quotient = operands(node, "mul"), operands(node, "div")
    if product is not None:
        return product[0] is not product[1]
    if quotient is not None:
        return quotient[0] is read[0] and quotient[1] is not read[0]
    return Call(node).input is read[0] and passes_factor(node, factor)
