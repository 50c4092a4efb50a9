"""A latency model of closed formulas, as tests of what builds on one share it: stairs, fixed costs, and a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from fxprune.costs.latency.conditions import Conditions
from fxprune.costs.latency.fit import Fit
from fxprune.costs.latency.latency_table import TimedOp
from fxprune.costs.latency.timing import Timing
from fxprune.pruning.latency_model import LatencyModel


class FakeLatency(LatencyModel):
    """Ops take a fixed time, and one that grows with the product of their widths, in steps of ``stairs``.

    What is measured is ``off`` times what is predicted at first; ``asked`` counts how often.
    """

    def __init__(self, batch: int = 2, stairs: int = 1, off: float = 1.0, fit: Fit | None = None) -> None:
        super().__init__(Conditions(batch=batch), fit=fit or Fit(0.05, 1.2, 0.003, 1.0))
        self.stairs, self.off, self.asked = stairs, off, 0
        self.first = self

    def op_time(self, op: TimedOp, widths: Sequence[float]) -> float:
        """Return the milliseconds of an op alone."""
        if any(width <= 0 for width in widths):
            return 0.0
        each = 1e-4 if len(widths) > 1 else 1e-3
        return (0.01 + each * math.prod(math.ceil(one / self.stairs) for one in widths)) * op.calls

    def step(self, op: TimedOp, parameter: int) -> int:
        """Return the width of a step."""
        return self.stairs

    def measured(self, graph_module: fx.GraphModule) -> Timing:
        """Return what the clock says of a network."""
        self.first.asked += 1
        return Timing(self.off * self.first.milliseconds(plain(graph_module)), 0.01, 5)

    def corrected(self, predicted: float, measured: float) -> FakeLatency:
        """Return a model that is right at that point."""
        factor = measured / predicted
        found = FakeLatency(
            self.conditions.batch, self.stairs, self.off, Fit(*(factor * one for one in self.fit[:3]))
        )
        found.first = self.first
        return found


def plain(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return what would be emitted of a graph, with gates or without."""
    from fxprune.passes import RemoveChannels, RemoveLayers
    from fxprune.passes.chains import AFTER_TRAINING
    from fxprune.pipelines.pipeline import Pipeline
    from fxprune.structures.gated_layers import gates_of

    if not gates_of(graph_module):
        return Pipeline(AFTER_TRAINING, verify=False)(graph_module).graph_module
    steps = [RemoveLayers(threshold=0.0), RemoveChannels(), *AFTER_TRAINING, RemoveChannels()]
    return Pipeline(steps, verify=False)(graph_module).graph_module
