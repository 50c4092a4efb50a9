"""Which weights set the size of a branch's output, and could take back what shrinking its scale takes away."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.shapes import same_shape
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ir.node_targets import attribute
from fxprune.ops.call import Call, is_a, operands

_RESHAPES = ("reshape", "unsqueeze", "getitem")


def size_weights(exit_node: fx.Node) -> list[str]:
    """Return the targets of the parameters that scale the value of ``exit_node``, last one first.

    From the branch's end backwards through everything that passes a positive factor on: layer scales, kernels, and
    the first norm's gamma, at which the walk ends, since a normalised value has lost its size.
    """
    found: list[str] = []
    node: fx.Node | None = exit_node
    while node is not None:
        node = _step(node, found)
    return list(dict.fromkeys(found))


def _step(node: fx.Node, found: list[str]) -> fx.Node | None:
    """Note the weights of ``node`` and return the value that it scales; None where the walk ends."""
    if is_by_mode(node):
        source = chosen(node, False)
        return source if isinstance(source, fx.Node) else None
    call = Call(node)
    if call.kind in ("conv", "linear"):
        weight = _own_weight(call)
        found += weight
        return call.input if weight or call.module is not None else None
    if call.kind == "norm":
        found += _own_weight(call)
        return None
    if operands(node, "mul") is not None:
        return _through_product(node, found)
    if is_a(node, "getitem") and is_a(call.input, "multihead_attention") and call.input is not None:
        found.append(f"{call.input.target}.out_proj.weight")
        return None
    if is_a(node, "stochastic_depth") or passes_factor(node, 1.0):
        return call.input
    return None


def _through_product(node: fx.Node, found: list[str]) -> fx.Node | None:
    """Walk on through a layer scale (a parameter), a number, or a gate that is broadcast over the value."""
    left, right = operands(node, "mul") or (None, None)
    for scaled, factor in ((left, right), (right, left)):
        if isinstance(scaled, fx.Node) and same_shape(scaled, node):
            if not isinstance(factor, fx.Node):
                return scaled
            weight = _parameter(factor)
            if weight or not same_shape(factor, node):
                found += weight
                return scaled
    return None


def _own_weight(call: Call) -> list[str]:
    """Return the target of the weight of a layer, or of a function that reads one."""
    if call.module is None:
        return _parameter(call.argument("weight"))
    return [f"{call.node.target}.weight"] if call.module._parameters.get("weight") is not None else []


def _parameter(node: Any) -> list[str]:
    """Return the target of the parameter that ``node`` is, reshaped or not; an empty list if it is none."""
    while is_a(node, *_RESHAPES):
        node = Call(node).input
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        return []
    value = attribute(node.graph.owning_module, str(node.target))
    return [str(node.target)] if isinstance(value, nn.Parameter) else []
