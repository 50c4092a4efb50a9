"""What predicts times, as it is given to what prunes: a model, which can measure networks too, or a table alone."""

from __future__ import annotations

from fxprune.costs.latency.latency_table import LatencyTable
from fxprune.pruning.latency_model import LatencyModel

Latency = LatencyModel | LatencyTable
