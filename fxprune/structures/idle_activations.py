"""Which activations an emitted network has not any more once a layer is gone: those of values that passed one before.

relu(relu(x) + R(relu(x)))   ->   relu(x)      without R
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from fxprune.facts.ranges import UNKNOWN, activation_range
from fxprune.ops.op import Bounds


def idle_without(node: fx.Node, source: fx.Node, bounds: Mapping[fx.Node, Bounds]) -> frozenset[fx.Node]:
    """Return the activations of ``node`` that are the identity where it is ``source``.

    ``bounds`` are those of :func:`fxprune.facts.ranges.bounds_of_values`.
    """
    low, high = bounds.get(source, UNKNOWN)
    ranges = {user: activation_range(user) for user in node.users}
    return frozenset(user for user, one in ranges.items() if one is not None and one[0] <= low and high <= one[1])
