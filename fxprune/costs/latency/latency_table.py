"""What the ops of a network take under some conditions, at any widths, and from that what the whole takes.

table.milliseconds(graph_module)                          of one network
op = table.timed_ops(graph_module)[3]
table.op_time(op, (48, 128)) < table.op_time(op, (64, 128))
table.step(op, 0)                                         16: fewer channels save nothing until 16 go
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import fx

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.fit import Fit, FitError, Sums, as_json
from fxprune.costs.latency.network_ops import ops_of, ops_of_all
from fxprune.costs.latency.stairs import Stairs, Way
from fxprune.costs.latency.timed_ops import TimedOp
from fxprune.costs.latency.timing import Timing
from fxprune.costs.latency.workloads import Widths
from fxprune.errors import FxpruneError
from fxprune.ir.nodes import place

__all__ = ["LatencyTable", "TimedOp"]

Ways = tuple[Way, ...]
Lines = tuple[tuple[int, ...], ...]


@dataclass
class Family:
    """What was measured of the ops that differ in widths alone.

    Attributes:
        stairs: of each parameter.
        grids: by the way that each parameter takes: of each the widths that times are known at, in all combinations;
            none until that is so.
        points: what was measured, by widths.
    """

    stairs: tuple[Stairs, ...] = ()
    grids: dict[Ways, Lines] = field(default_factory=dict)
    points: dict[Widths, Timing] = field(default_factory=dict)

    def time(self, widths: Sequence[float]) -> float | None:
        """Return the milliseconds at any widths, between those that were measured; None if nothing was."""
        if not self.points:
            return None
        if not widths:
            return self.points[()].milliseconds
        along = list(zip(self.stairs, widths, strict=False))
        read = [one.read_as(width) for one, width in along]
        own: Ways = tuple(one.way(width) for one, width in along)
        stepped: Ways = tuple("stepped" for _ in along)
        for ways in (own, stepped):
            if ways in self.grids:
                return self._between(self.grids[ways], read)
        return self._in_proportion(widths)

    def _between(self, lines: Lines, widths: Sequence[float]) -> float:
        """Return the time between lines, linear along each parameter; beyond them as between the last two."""
        cells = [_cell(one, width) for one, width in zip(lines, widths, strict=True)]
        total = sum(
            math.prod(share for _, share in corner) * self.points[tuple(width for width, _ in corner)].milliseconds
            for corner in product(*cells)
        )
        return total if total > 0 else self._in_proportion(widths)

    def _in_proportion(self, widths: Sequence[float]) -> float:
        """Return the time of the nearest point, in proportion to each width."""

        def far(point: Widths) -> float:
            return float(np.sum(np.abs(np.log(np.maximum(widths, 1e-9)) - np.log(point))))

        nearest = min(self.points, key=far)
        return self.points[nearest].milliseconds * float(np.prod(np.array(widths, dtype=float) / np.array(nearest)))


_UNKNOWN = Family()


class LatencyTable:
    """What ops take alone under some conditions, and the fit to whole networks.

    Attributes:
        conditions: under which all was measured.
        families: what was measured of each family of ops.
        fit: from ops to networks.
        error: how far predictions of networks that the fit has not seen are off; None if that was not measured.
        missing: what was not measured, and what stands in for it, for a person.
    """

    def __init__(
        self,
        conditions: Conditions,
        families: dict[str, Family] | None = None,
        fit: Fit | None = None,
        error: FitError | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        self.conditions = conditions
        self.families = {} if families is None else families
        self.fit = fit or Fit()
        self.error = error
        self.missing = tuple(missing)

    def timed_ops(self, graph_module: fx.GraphModule) -> list[TimedOp]:
        """Return what takes time in the network that will be emitted of one graph (regions have ops of their own).

        The graph may be as traced, with gates, or plain: the same ops come out.
        """
        return ops_of(graph_module, self.conditions.batch, self.conditions.layout)

    def op_time(self, op: TimedOp, widths: Sequence[float]) -> float:
        """Return the milliseconds that ``op`` takes alone, in all its calls, at widths of its axes, in channels.

        What compiled networks join with the op in front of it counts for as much as it adds to a network. Raises
        FxpruneError for an op of which nothing was measured.
        """
        return self._alone(op, widths) * (self.fit.f if op.workload.fused else 1.0)

    def _alone(self, op: TimedOp, widths: Sequence[float]) -> float:
        """Return what an op takes alone, without what has lines of its own inside it."""
        inside = sum(self._with_inside(one, one.workload.widths) for one in op.inside)
        return max(0.0, self._with_inside(op, widths) - inside)

    def _with_inside(self, op: TimedOp, widths: Sequence[float]) -> float:
        if any(width <= 0 for width in widths):
            return 0.0
        found = self.families.get(op.workload.family, _UNKNOWN).time(widths)
        if found is None:
            raise FxpruneError(f"{place(op.node)}: no op like it was measured; measure a network that has it")
        return found * op.calls

    def total(self, op_milliseconds: float, launches: int) -> float:
        """Return what a whole network takes, whose ops take so long alone in sum, and are so many."""
        return self.fit.a + self.fit.b * op_milliseconds + self.fit.c * launches

    def milliseconds(self, graph_module: fx.GraphModule) -> float:
        """Return what the network that will be emitted of a graph takes, predicted, regions included."""
        return self.of_ops(self.all_ops(graph_module))

    def all_ops(self, graph_module: fx.GraphModule) -> list[TimedOp]:
        """Return :meth:`timed_ops` of a graph and of all its regions."""
        return ops_of_all(graph_module, self.conditions.batch, self.conditions.layout)

    def of_ops(self, ops: Sequence[TimedOp]) -> float:
        """Return what a network of these ops takes, predicted."""
        return self.total(sum(self.op_time(one, one.workload.widths) for one in ops), len(ops))

    def step(self, op: TimedOp, parameter: int) -> int:
        """Return by how many channels less of a parameter an op is faster; 1 where there are no stairs."""
        own = op.workload.steps[parameter]
        stairs = self.families[op.workload.family].stairs
        return int(np.lcm(own, stairs[parameter].step)) if stairs else own

    def sums(self, ops: Sequence[TimedOp]) -> Sums:
        """Return what the fit is asked of."""
        sums = {True: 0.0, False: 0.0}
        for one in ops:
            sums[one.workload.fused] += self._alone(one, one.workload.widths)
        return Sums(sums[False], sums[True], len(ops))

    def with_fit(self, fit: Fit, error: FitError | None) -> LatencyTable:
        """Return the same measurements with another fit."""
        return LatencyTable(self.conditions, self.families, fit, error, self.missing)

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain data."""
        return {
            "conditions": self.conditions.to_json(),
            "families": families_to_json(self.families),
            "fit": as_json(self.fit),
            "error": as_json(self.error),
            "missing": list(self.missing),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Return what :meth:`to_json` told."""
        error = data["error"]
        return cls(
            Conditions(**data["conditions"]),
            families_from_json(data["families"]),
            Fit(**data["fit"]),
            None if error is None else FitError(**error),
            data["missing"],
        )


@runtime_checkable
class HasTable(Protocol):
    """What predicts by a table, and can do more: a :class:`fxprune.LatencyModel`."""

    @property
    def table(self) -> LatencyTable:
        """What ops take."""


def table_of(latency: LatencyTable | HasTable | None) -> LatencyTable | None:
    """Return what says how long ops take."""
    return latency if latency is None or isinstance(latency, LatencyTable) else latency.table


def families_to_json(families: Mapping[str, Family]) -> dict[str, Any]:
    """Return measurements as plain data."""
    return {
        name: {
            "stairs": [list(one) for one in family.stairs],
            "grids": [[list(ways), [list(one) for one in lines]] for ways, lines in family.grids.items()],
            "points": [[list(widths), list(timing)] for widths, timing in family.points.items()],
        }
        for name, family in families.items()
    }


def families_from_json(data: Mapping[str, Any]) -> dict[str, Family]:
    """Return what :func:`families_to_json` told."""
    return {
        name: Family(
            tuple(Stairs(*one) for one in family["stairs"]),
            {tuple(ways): tuple(tuple(one) for one in lines) for ways, lines in family["grids"]},
            {tuple(widths): Timing(*timing) for widths, timing in family["points"]},
        )
        for name, family in data.items()
    }


def _cell(lines: Sequence[int], width: float) -> list[tuple[int, float]]:
    """Return the lines beside a width, each with its share; beyond the last two they go on."""
    if len(lines) == 1:
        return [(lines[0], width / lines[0])]
    high = min(max(bisect_left(lines, width), 1), len(lines) - 1)
    low, up = lines[high - 1], lines[high]
    share = (width - low) / (up - low)
    return [(low, 1 - share), (up, share)]
