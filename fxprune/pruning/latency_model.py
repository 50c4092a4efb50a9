"""Stand-in of the interface, dropped when the real one is merged."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxprune.costs.latency.latency_table import LatencyTable


class LatencyModel(LatencyTable):
    """What can be measured too."""

    @classmethod
    def measure(cls, graph_module: fx.GraphModule, **options: Any) -> LatencyModel:
        """Return a model of a graph."""
        raise NotImplementedError

    def measured(self, graph_module: fx.GraphModule) -> Any:
        """Return the Timing of the network as it would be emitted."""
        raise NotImplementedError

    def corrected(self, predicted: float, measured: float) -> LatencyModel:
        """Return the same with the fit moved by that point."""
        raise NotImplementedError
