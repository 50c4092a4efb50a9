"""A latency model of closed formulas, as tests of what builds on one share it: stairs, fixed costs, and a clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

from torch import fx

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.fit import Fit
from fxprune.costs.latency.latency_table import LatencyTable, TimedOp
from fxprune.costs.latency.timing import Timing
from fxprune.passes import RemoveChannels, RemoveLayers
from fxprune.passes.chains import AFTER_TRAINING
from fxprune.pipelines.pipeline import Pipeline
from fxprune.pruning.latency_model import LatencyModel
from fxprune.structures.gated_layers import gates_of


class FakeTable(LatencyTable):
    """Ops take a fixed time, and one that grows with the product of their widths, in steps of ``stairs``."""

    def __init__(self, batch: int = 2, stairs: int = 1, fit: Fit | None = None) -> None:
        super().__init__(Conditions(batch=batch), fit=fit or Fit(0.05, 1.2, 0.003))
        self.stairs = stairs

    def op_time(self, op: TimedOp, widths: Sequence[float]) -> float:
        """Return the milliseconds of an op alone."""
        if any(width <= 0 for width in widths):
            return 0.0
        each = 1e-4 if len(widths) > 1 else 1e-3
        return (0.01 + each * math.prod(math.ceil(one / self.stairs) for one in widths)) * op.calls

    def step(self, op: TimedOp, parameter: int) -> int:
        """Return the width of a step."""
        return self.stairs


class FakeLatency(LatencyModel):
    """What is measured is ``off`` times what is predicted at first; ``asked`` has every time that it was.

    ``pace`` says how slow the machine is each time, beside that.
    """

    table: FakeTable

    def __init__(
        self,
        batch: int = 2,
        stairs: int = 1,
        off: float = 1.0,
        table: FakeTable | None = None,
        pace: Iterable[float] = (),
    ) -> None:
        own = FakeTable(batch, stairs) if table is None else table
        asked: list[float] = []
        fields = {"table": own, "off": off, "first": own, "asked": asked, "pace": chain(pace, repeat(1.0))}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    off: float
    first: FakeTable
    asked: list[float]
    pace: Iterator[float]

    def milliseconds(self, graph_module: fx.GraphModule) -> float:
        """Return what is predicted."""
        return self.table.milliseconds(graph_module)

    def measured_in_turns(self, graph_modules: Sequence[fx.GraphModule]) -> list[Timing]:
        """Return what the clock says of networks."""
        pace = self.off * next(self.pace)
        found = [pace * self.first.milliseconds(plain(one)) for one in graph_modules]
        self.asked.append(found[0])
        return [Timing(one, 0.01, 5) for one in found]

    def with_table(self, table: LatencyTable) -> FakeLatency:
        """Return the same clock with other predictions."""
        assert isinstance(table, FakeTable)
        found = FakeLatency(off=self.off, table=table)
        own: dict[str, Any] = {"first": self.first, "asked": self.asked, "pace": self.pace}
        for name, value in own.items():
            object.__setattr__(found, name, value)
        return found

    def corrected(self, predicted: float, measured: float) -> FakeLatency:
        """Return a model that is right at that point."""
        factor, fit = measured / predicted, self.table.fit
        moved = Fit(fit.a * factor, fit.b * factor, fit.c * factor)
        return self.with_table(FakeTable(self.table.conditions.batch, self.table.stairs, moved))


def plain(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return what would be emitted of a graph, with gates or without."""
    if not gates_of(graph_module):
        return Pipeline(AFTER_TRAINING, verify=False)(graph_module).graph_module
    steps = [RemoveLayers(threshold=0.0), RemoveChannels(), *AFTER_TRAINING, RemoveChannels()]
    return Pipeline(steps, verify=False)(graph_module).graph_module
