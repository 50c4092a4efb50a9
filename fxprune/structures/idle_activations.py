"""Which activations an emitted network has not any more once a layer is gone: those of values that passed one before.

relu(relu(x) + R(relu(x)))   ->   relu(x)      without R
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from fxprune.facts.ranges import UNKNOWN, activation_range
from fxprune.gates.base import Gated
from fxprune.ir.nodes import called_module
from fxprune.ops.call import operands
from fxprune.ops.op import Bounds


def idle_without(node: fx.Node, source: fx.Node, bounds: Mapping[fx.Node, Bounds]) -> frozenset[fx.Node]:
    """Return the activations behind ``node``, of sums with it too, that are the identity where it is ``source``.

    ``bounds`` are those of :func:`fxprune.facts.ranges.bounds_of_values`.
    """
    known = {**bounds, node: bounds.get(source, UNKNOWN)}
    found: set[fx.Node] = set()
    left = [node]
    while left:
        one = left.pop()
        low, high = known[one]
        for user in one.users:
            identity_on = activation_range(user)
            if identity_on is not None and identity_on[0] <= low and high <= identity_on[1]:
                found.add(user)
            terms = None if identity_on is not None else _terms(user)
            if terms is not None and user not in left:
                both = [known.get(each, UNKNOWN) if isinstance(each, fx.Node) else (each, each) for each in terms]
                known[user] = sum(low for low, _ in both), sum(high for _, high in both)
                left.append(user)
    return frozenset(found)


def _terms(node: fx.Node) -> Sequence[Any] | None:
    """Return what ``node`` adds; a gate of a branch is its sum."""
    module = called_module(node)
    if isinstance(module, Gated) and module.operands == 2:
        return node.args[:2]
    return operands(node, "add")
