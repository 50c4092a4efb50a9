"""Stand-in of the interface, dropped when the real one is merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class TimedOp:
    """An op of a graph that takes time."""

    node: fx.Node
    workload: Any
    axes: tuple[tuple[fx.Node, int], ...]
    calls: float = 1.0
    inside: tuple[TimedOp, ...] = ()


class LatencyTable:
    """What ops take under some conditions over their widths, with a fit to whole networks."""

    conditions: Any

    def timed_ops(self, graph_module: fx.GraphModule) -> list[TimedOp]:
        """Return the ops of one graph."""
        raise NotImplementedError

    def op_time(self, op: TimedOp, widths: Sequence[float]) -> float:
        """Return milliseconds alone."""
        raise NotImplementedError

    def total(self, op_milliseconds: float, launches: float) -> float:
        """Return a + b x + c n."""
        raise NotImplementedError

    def milliseconds(self, graph_module: fx.GraphModule) -> float:
        """Return what is predicted."""
        raise NotImplementedError

    def step(self, op: TimedOp, parameter: int) -> int:
        """Return the least width step that saves time."""
        raise NotImplementedError
