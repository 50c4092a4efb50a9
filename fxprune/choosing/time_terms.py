"""The time of a graph as a sum over its ops: of each what it takes at the widths that are left, and its launch.

conv of 64 to 128 channels, 16 of the 64 gone   ->   b t(48, 128) + c
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import fx

from fxprune.choosing.cost_terms import Amounts, Axes, Places, Terms
from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.structures.channels.tensors import Vectors
from fxprune.structures.channels.values import Value

_STEPS = 4


class TimeTerms(Terms):
    """The milliseconds of one graph; those that any network takes, the "a" of the fit, are left out.

    Raises FxpruneError if ``latency`` does not know an op.
    """

    def __init__(self, graph_module: fx.GraphModule, latency: LatencyTable, axes: Axes) -> None:
        self._ops = latency.timed_ops(graph_module)
        super().__init__(
            [(1.0, frozenset((op.node,)), [_labels(axes, *one) for one in op.axes]) for op in self._ops], axes
        )
        self._latency = latency
        self._widths = np.ones(self._along.shape)
        for place, op in enumerate(self._ops):
            self._widths[place, : len(op.axes)] = op.workload.widths[: len(op.axes)]
        self._known: list[dict[tuple[float, ...], float]] = [{} for _ in self._ops]
        for place, full in enumerate(self._widths):
            self._time(place, tuple(full.tolist()))  # raises now, if it is not known

    def refit(self, latency: LatencyTable) -> None:
        """Go on with another fit of the same times of ops."""
        self._latency = latency

    def _values(self, kept: Amounts, terms: Places = slice(None)) -> Amounts:
        """Return the milliseconds of each of ``terms`` where so much of each axis is kept."""
        widths = (self._widths[terms] * kept[self._along[terms]]).round(6).tolist()
        places = np.arange(len(self._ops))[terms].tolist()
        found = np.array([self._time(place, tuple(each)) for place, each in zip(places, widths, strict=True)])
        _, slope, launch = fit_of(self._latency)
        return slope * found + launch

    def _slopes(self) -> Amounts:
        """Return what each op loses with all of each axis, at the rate of its first half.

        The rate is that of the chord: steps of a staircase lie between, and half of a group is what may well go.
        """
        found = np.zeros(self._along.shape)
        _, slope, _ = fit_of(self._latency)
        for place, op in enumerate(self._ops):
            full = tuple(self._widths[place].tolist())
            for axis in range(len(op.axes)):
                half = (*full[:axis], full[axis] / 2, *full[axis + 1 :])
                found[place, axis] = 2 * slope * (self._time(place, full) - self._time(place, half))
        return found

    def step(self, axes: Mapping[int, int], width: int, multiple: int) -> int:
        """Return in what steps a group of ``width`` classes saves time, a multiple of ``multiple``.

        ``axes`` are those that are wholly its own, each with how many channels of it a class has. Of steps that
        differ the small ones come first, and none that would leave the group less than four.
        """
        steps = set()
        for place, op in enumerate(self._ops):
            for parameter, number in enumerate(self._along[place, : len(op.axes)].tolist()):
                if number in axes:
                    step = self._latency.step(op, parameter)
                    steps.add(step // math.gcd(step, axes[number]))
        found = multiple
        for step in sorted(steps):
            both = math.lcm(found, step)
            found = both if both <= width // _STEPS else found
        return found

    def _time(self, place: int, widths: tuple[float, ...]) -> float:
        known, op = self._known[place], self._ops[place]
        if widths not in known:
            known[widths] = self._latency.op_time(op, widths[: len(op.axes)])
        return known[widths]


def fit_of(latency: LatencyTable) -> tuple[float, float, float]:
    """Return (a, b, c) of what a network takes: a + b sum(t_op) + c launches, in milliseconds."""
    base = latency.total(0.0, 0)
    return base, latency.total(1.0, 0) - base, latency.total(0.0, 1) - base


def _labels(axes: Axes, node: fx.Node, axis: int) -> Vectors:
    """Return the labels along an axis of what ``node`` computes; none if nothing can go of it."""
    if axes.channels is None:
        return ()
    walk = axes.channels.walk
    value = walk.value(node)
    return walk.along(value, axis) if isinstance(value, Value) else ()
